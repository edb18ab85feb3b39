"""The lock of a run directory: held by one job, and gone with the directory of a run that was refused."""

import fcntl
import shutil
from pathlib import Path

import pytest

from raykd.engine.run import run
from raykd.errors import InProgress, UsageError
from raykd.recipe.experiment import resolve
from raykd.store.run_directory import RunDirectory
from tests.golden.shrunk import shrunk


def test_a_second_process_in_the_same_run_is_refused(tmp_path: Path) -> None:
    with shrunk(2, tmp_path) as (place, load):
        recipe = load("supervised_digits_lenet5")
        directory = place.workspace.store / resolve(recipe).run_id
        directory.mkdir(parents=True)
        with (directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match=f"{resolve(recipe).run_id} is in progress"):
                run(resolve(recipe), place)
        assert run(resolve(recipe), place).run == resolve(recipe).run_id


def test_a_refused_run_leaves_no_directory(tmp_path: Path) -> None:
    with shrunk(2, tmp_path) as (place, load):
        recipe = load("supervised_digits_lenet5", ["student.model=lenet99"])
        directory = place.workspace.store / resolve(recipe).run_id
        with pytest.raises(UsageError, match="lenet99"):
            run(resolve(recipe), place)
        assert not directory.exists()
        directory.mkdir()
        (directory / "metrics.jsonl").touch()
        with pytest.raises(UsageError, match="lenet99"):
            run(resolve(recipe), place)
        assert (directory / "metrics.jsonl").exists()


def test_a_lock_that_was_removed_meanwhile_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, flock = RunDirectory(tmp_path / "run"), fcntl.flock

    def late(lock: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(run.path)  # by the process that held it
        with run.held():  # a third one
            flock(lock, operation)
            entered.append(run)

    entered: list[RunDirectory] = []
    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InProgress), run.held():
        pytest.fail("two jobs are in one run")
    assert entered
    with run.held():
        assert (run.path / ".lock").exists()
    assert not run.path.exists()
