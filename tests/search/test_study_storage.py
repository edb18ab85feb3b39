"""Where a study is kept: by several tuners at once, and not told with its secrets."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from raykd.errors import SetupError
from raykd.search import study_storage
from raykd.search.study import enqueue
from tests.search.made_study import opened, space


@pytest.mark.parametrize("url", [None, "journal:{}/journal.log"])
def test_no_two_tuners_take_the_same_waiting_trial(tmp_path: Path, url: str | None) -> None:
    points = [{"schedule.steps": 3}] + [{"method.temperature": 1.0 + number} for number in range(39)]
    searched = space(tmp_path, points=points, sampler={"name": "random"})
    studies = [opened(tmp_path, searched, url=url and url.format(tmp_path)) for _ in range(2)]
    enqueue(studies[0], searched)

    def ask(study: optuna.Study) -> list[int]:
        return [study.ask().number for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        taken = [number for numbers in pool.map(ask, studies) for number in numbers]
    assert sorted(taken) == list(range(40))


def test_a_storage_that_cannot_be_opened_is_told_without_its_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("postgresql://me:secret@127.0.0.1:1/none", "nothing://x", f"sqlite:///{tmp_path}/no/where.db"):
        with pytest.raises(SetupError, match="the study cannot be opened at") as caught:
            opened(tmp_path, space(tmp_path), url=url)
        assert "secret" not in str(caught.value)
    url = f"sqlite:///{tmp_path}/locked.db"
    opened(tmp_path, space(tmp_path), url=url)
    monkeypatch.setattr(study_storage, "_BUSY_SECONDS", 0)
    with closing(sqlite3.connect(tmp_path / "locked.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SetupError, match="locked.db: .*database is locked"):
            opened(tmp_path, space(tmp_path), url=url)
    opened(tmp_path, space(tmp_path))
    with pytest.raises(SetupError, match="cannot be opened"):  # the same study cannot want something else
        opened(tmp_path, space(tmp_path), "accuracy", "parameters")
