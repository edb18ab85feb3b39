"""Files that a recipe names are looked for here, then under the data root."""

from pathlib import Path

import pytest

from raykd.config.data_root import find_file
from raykd.errors import UsageError


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
