"""Where data sets are looked for: the cluster's word counts before the environment's."""

from pathlib import Path

import pytest

from raykd.config.data_root import data_place, data_root
from raykd.errors import UsageError


def test_the_clusters_place_counts_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_DATA", "sets")
    assert (data_place("s3://b/data"), data_place(), data_root()) == ("s3://b/data", "sets", Path("sets"))
    monkeypatch.setenv("RAYKD_DATA", "")
    assert (data_place(), data_root()) == (None, None), "an empty variable is none"


def test_who_reads_folders_refuses_an_object_store_without_telling_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_DATA", "s3://me:hush@bucket/data")
    with pytest.raises(UsageError, match="this command reads folders of this machine") as caught:
        data_root()
    assert "hush" not in str(caught.value)
