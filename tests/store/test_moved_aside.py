"""A run is removed in one move: a process that is killed meanwhile leaves nothing that looks like it."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raykd.errors import CorruptError, InProgress
from raykd.store.inventory import take_inventory
from raykd.store.moved_aside import REMOVED, remove_run
from raykd.store.run_directory import RunDirectory, runs_in
from raykd.store.workspace import Workspace
from tests.reporting.pages.made import made_run

CODE = "import sys, pathlib; from raykd.store.moved_aside import *; remove_run(RunDirectory(pathlib.Path(sys.argv[1])))"


def test_a_run_is_gone_and_so_is_the_folder_that_it_was_moved_to(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    remove_run(run)
    assert os.listdir(tmp_path) == []


def test_a_name_as_long_as_a_disk_takes_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    made_run(tmp_path).path.rename(path)
    remove_run(RunDirectory(path))
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_leaves_is_no_run_and_is_swept(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    other = made_run(tmp_path, overrides=("seed=1",))
    for index in range(20_000):  # so that it takes a while
        (run.checkpoints / f"{index % 50}").mkdir(parents=True, exist_ok=True)
        (run.checkpoints / f"{index % 50}" / f"{index}").touch()
    process = subprocess.Popen([sys.executable, "-c", CODE, str(run.path)])
    while run.path.exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / REMOVED).is_dir()
    assert (
        [one.name for one in take_inventory(tmp_path).runs] == [one.name for one in runs_in(tmp_path)] == [other.name]
    )
    Workspace(None, tmp_path).sweep()
    assert os.listdir(tmp_path) == [other.name]


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").touch()
    run = made_run(tmp_path / "runs")
    run.checkpoints.symlink_to(outside)
    remove_run(run)
    assert os.listdir(outside) == ["mine"]


def test_nothing_is_moved_out_of_the_store_through_a_link(tmp_path: Path) -> None:
    run = made_run(tmp_path / "runs")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").touch()
    (tmp_path / "runs" / REMOVED).symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptError, match="a link that leads out of"):
        remove_run(run)
    Workspace(None, tmp_path / "runs").sweep()
    assert run.exists
    assert os.listdir(tmp_path / "outside") == ["mine"]


def test_where_locks_are_unknown_a_run_is_left_alone_until_nobody_can_be_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for a network file system that is mounted without locks, of which this machine has none."""

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def leave_alone() -> None:
        for path in run.path.iterdir():
            os.utime(path, (path.stat().st_mtime - 2 * 86_400,) * 2)

    monkeypatch.setattr("fcntl.flock", unknown)
    run = made_run(tmp_path)
    with pytest.raises(InProgress, match="its file system knows no locks"):
        remove_run(run)
    assert run.result() is not None
    with run.held():  # a process that goes on with it, and has noted nothing yet
        leave_alone()
    with run.held(), pytest.raises(InProgress):
        remove_run(RunDirectory(run.path))
    leave_alone()
    remove_run(run)
    assert os.listdir(tmp_path) == []


def test_of_two_who_remove_a_run_one_is_told(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    remove_run(run)
    with pytest.raises(InProgress, match="is gone: another process has removed it"):
        remove_run(run)


def test_a_run_at_work_is_whole_in_the_end(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    with run.held(), pytest.raises(InProgress, match=f"run {run.name} is in progress in another process"):
        remove_run(RunDirectory(run.path))
    assert run.result() is not None
