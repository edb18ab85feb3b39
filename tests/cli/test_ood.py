"""``raykd ood``: an index of other images, and what it tells of them."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Raykd
from tests.tasks.ranked import COUNT, ranking_place


def test_the_command_says_what_it_chose(tmp_path: Path, raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ranking_place(tmp_path)
    monkeypatch.setenv("RAYKD_DATA", str(place))
    monkeypatch.chdir(place)
    told = raykd("ood", "t.yaml", "--data", "ours", "--images", "12", "--json")
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["file"], found["images"], found["of"]) == ("ood-teacher-ours.parquet", 12, COUNT)
    assert found["entropy_highest"] >= found["entropy_lowest"] >= found["entropy_of_all"]
    shown = raykd("ood", "t.yaml", "--data", "ours", "--out", "all.parquet")
    assert "60 of 60 of ours/train" in shown.stdout
    wrong = raykd("ood", "t.yaml", "--data", "our")
    assert wrong.exit_code == 2
    assert "did you mean 'ours'" in wrong.stderr
