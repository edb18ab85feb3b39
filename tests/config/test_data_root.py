"""Where data sets are looked for: the cluster's word counts before the environment's."""

from pathlib import Path

import pytest

from raykd.config.data_root import data_folder, data_place, expanded, find_file
from raykd.errors import UsageError


def test_the_clusters_place_counts_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_DATA", "sets")
    assert (data_place("s3://b/data"), data_place(), data_folder()) == ("s3://b/data", "sets", Path("sets"))
    monkeypatch.setenv("RAYKD_DATA", "")
    assert (data_place(), data_folder()) == (None, None), "an empty variable is none"


def test_who_reads_folders_refuses_an_object_store_without_telling_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_DATA", "s3://me:hush@bucket/data")
    with pytest.raises(UsageError, match="this command reads folders of this machine") as caught:
        data_folder()
    assert "hush" not in str(caught.value)


def test_a_file_here_comes_before_one_under_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, root = tmp_path / "here", tmp_path / "data"
    for folder in (here, root):
        folder.mkdir()
    monkeypatch.chdir(here)
    (root / "x.bin").touch()
    assert find_file("x.bin", root, "weights file", "") == root / "x.bin"
    (here / "x.bin").touch()
    assert find_file("x.bin", root, "weights file", "") == Path("x.bin")
    with pytest.raises(UsageError, match=r"^no weights file 'y' \(looked at y and .*/data/y\); bring it$"):
        find_file("y", root, "weights file", "bring it")
    with pytest.raises(UsageError, match=r"looked at y\); bring it$"):
        find_file("y", None, "weights file", "bring it")


def test_the_home_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    monkeypatch.setenv("RAYKD_DATA", "~/data")
    assert data_folder() == Path("/users/me/data")
    assert data_place("~/theirs") == "/users/me/theirs"
    assert data_place("s3://bucket/~x") == "s3://bucket/~x"


def test_a_home_that_nobody_knows_is_named() -> None:
    with pytest.raises(UsageError, match=r"RAYKD_DATA is '~no-such-user/data', and no home is known .* whole path"):
        expanded("~no-such-user/data", "RAYKD_DATA")
