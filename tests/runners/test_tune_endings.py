"""Searches that starve, are stopped or are killed, and lose nothing."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from optuna.trial import TrialState

from raykd.errors import SetupError
from raykd.recipe.experiment import resolve
from raykd.runners.ray.signals import RunSignals
from raykd.search.attributes import RUN
from raykd.search.setup import SearchStopped, plan_search
from raykd.search.space_file import load_space
from raykd.store.run_directory import RunDirectory
from tests.disks import mounted, resize
from tests.runners import runs
from tests.runners.test_tune import SMALL, searched, study_of, written

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_trial_that_starves_says_for_what(
    ray_session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another job takes the CPUs between two trials; the search waits, says so, and goes on when they are free."""
    monkeypatch.setattr("raykd.runners.ray.tuner._STARVING_SECONDS", 1.0)
    monkeypatch.setattr("raykd.runners.ray.session._BUSY_SECONDS", 0.0)

    class Other:
        def here(self) -> bool:
            return True

    other: Any = ray_session.remote(num_cpus=1)(Other).remote()
    assert ray_session.get(other.here.remote())

    def heard() -> bool:
        """Asked about now and then; never stops, but lets the other go once the search has said what it waits for."""
        if any("trial(s) wait for room" in record.getMessage() for record in caplog.records):
            ray_session.kill(other)
        return False

    report = searched(tmp_path, heard, {"cpus_per_worker": 1}, trials=2)
    assert report["trials"]["complete"] == 2
    told = next(one.getMessage() for one in caplog.records if "wait for room" in one.getMessage())
    assert re.fullmatch(r"\d trial\(s\) wait for room: each needs 1 CPUs; free are 0 CPUs", told)


def test_a_stop_saves_and_the_same_call_continues(ray_session: ModuleType, tmp_path: Path) -> None:
    long = {**SMALL, "schedule.steps": 300, "schedule.report_every": 20}

    def begun() -> bool:
        return len(list((tmp_path / "runs").glob("kd_digits-*/checkpoints/step_*"))) > 1

    with pytest.raises(SearchStopped, match=r"stopped with \d of 2 trials finished"):
        searched(tmp_path, begun, trials=2, overrides=long)
    saved = [path for path in (tmp_path / "runs").glob("kd_digits-*") if (path / "checkpoints").is_dir()]
    assert {RunDirectory(path).status()["state"] for path in saved} == {"interrupted"}
    report = searched(tmp_path, trials=2, overrides=long)
    assert report["trials"] == {"target": 2, "complete": 2, "pruned": 0, "failed": 0, "running": 0}
    assert {path.name for path in saved} <= {trial.user_attrs.get(RUN) for trial in study_of(report).trials}


class Killer:
    """Asked now and then whether to stop; kills the process of a trial instead, once, or does something else to it."""

    def __init__(self, folder: Path, how: signal.Signals = signal.SIGKILL) -> None:
        self.folder, self.how, self.before = folder, how, dict[str, str]()

    def __call__(self) -> bool:
        saved = [path.parents[1] for path in self.folder.glob("runs/kd_digits-*/checkpoints/step_*")]
        if saved and not self.before:
            os.kill(runs.processes_below(os.getpid(), "ray::ImplicitFunc")[0], self.how)
            self.before = {path.name: (path / "metrics.jsonl").read_text() for path in saved}
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.endurance)])
def test_a_trial_that_is_killed_or_hangs_goes_on_from_its_checkpoint(
    ray_session: ModuleType,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    how: signal.Signals,
) -> None:
    long = {**SMALL, "schedule.steps": 300, "schedule.report_every": 20}
    killer = Killer(tmp_path, how)
    report = searched(tmp_path, killer, {"hang_seconds": 2, "on_hang": "restart"}, trials=1, overrides=long)
    assert report["trials"] == {"target": 1, "complete": 1, "pruned": 0, "failed": 0, "running": 0}
    said = [re.match(r"the process of (\S+) died; it goes on", record.getMessage()) for record in caplog.records]
    died = next(match[1] for match in said if match)
    rows = (tmp_path / "runs" / died / "metrics.jsonl").read_text()
    assert rows.startswith(killer.before[died]), "it did not begin again"
    assert [json.loads(row)["step"] for row in rows.splitlines()] == list(range(20, 301, 20))
    told = capfd.readouterr()
    assert told.out == "", "Ray's own words do not mix with a report"
    assert "Traceback" not in told.err


def test_a_trial_that_dies_too_often_is_recorded(
    ray_session: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = {**SMALL, "schedule.steps": 600, "schedule.report_every": 20}
    report = searched(tmp_path, Killer(tmp_path), {"max_failures": 0}, trials=1, overrides=long)
    assert report["trials"] == {"target": 1, "complete": 0, "pruned": 0, "failed": 1, "running": 0}
    assert "its process died" in report["reasons"][0]["reason"]


def test_what_is_not_a_trials_fault_ends_the_search_and_not_the_trial(ray_session: ModuleType, tmp_path: Path) -> None:
    """A disk that takes nothing more, as a store that is gone: mended, the same call goes on with that trial."""
    temperatures = {"method.temperature": {"choice": [2.0, 3.0]}}
    changes: dict[str, Any] = {"sampler": {"name": "grid"}, "trials": 2, "space": temperatures}
    planned = plan_search(load_space(str(written(tmp_path, **changes))), tmp_path / "runs")
    run = resolve(planned.space.make_recipe({"method.temperature": 3.0})).run_id
    blocked = tmp_path / "runs" / run / "checkpoints"
    blocked.parent.mkdir(parents=True)
    told = pytest.raises(SetupError, match=rf"trial \d: could not write checkpoint .*{run}.*the same command")
    with mounted(blocked) as disk, told:
        resize(disk, 1)
        searched(tmp_path, **changes)
    report = searched(tmp_path, **changes)
    assert report["trials"] == {"target": 2, "complete": 2, "pruned": 0, "failed": 0, "running": 0}


def test_a_disk_that_is_full_for_the_driver_ends_the_search_and_no_trial(
    ray_session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "search.json")

    with monkeypatch.context() as full:
        full.setattr("raykd.runners.ray.tuner.write_search", fail)
        with pytest.raises(SetupError, match=r"the search cannot go on \(search.json: No space left.*the same command"):
            searched(tmp_path, trials=2)
    ended = {path: path.stat().st_mtime_ns for path in finished_runs(tmp_path)}
    report = searched(tmp_path, trials=2)
    assert report["trials"] == {"target": 2, "complete": 2, "pruned": 0, "failed": 0, "running": 0}
    assert ended.items() <= {path: path.stat().st_mtime_ns for path in finished_runs(tmp_path)}.items()


@pytest.mark.endurance
@pytest.mark.parametrize("verb", ["train", "tune"])
def test_no_process_outlives_a_killed_driver(tmp_path: Path, verb: str) -> None:
    """Ray's own processes and its workers end within seconds, and the next driver removes what this one left."""
    long = {**SMALL, "schedule.steps": 100_000, "schedule.report_every": 20}
    (tmp_path / "here.yaml").write_text("{workers: 1, cpus_per_worker: 1, threads: 1}")
    what = ["supervised_digits_lenet5", "schedule.steps=100000", "schedule.report_every=20"]
    what = [str(written(tmp_path, overrides=long))] if verb == "tune" else [*what, "--cluster", f"{tmp_path}/here.yaml"]
    command = [sys.executable, "-m", "raykd", verb, *what, "--out", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    started = "kd_digits-*" if verb == "tune" else "supervised_*"
    try:
        while not list((tmp_path / "runs").glob(f"{started}/checkpoints/step_*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        below = runs.processes_below(process.pid, "")
        process.kill()
        process.wait()
    assert len(below) > 3, "Ray's and a worker"
    deadline = time.monotonic() + 20
    while alive := [pid for pid in below if is_alive(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)
    (left,) = (tmp_path / "runs" / ".ray").iterdir()
    signals = RunSignals(tmp_path / "runs", "next")
    signals.open()
    assert not left.exists()
    signals.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.endurance
def test_a_killed_search_loses_nothing(tmp_path: Path) -> None:
    """The command dies in the middle; the same command repeats nothing that was finished and finishes the rest."""
    slow = {**SMALL, "schedule.steps": 200, "schedule.report_every": 20}
    space = written(tmp_path, overrides=slow)
    command = [sys.executable, "-m", "raykd", "tune", str(space), "--out", str(tmp_path / "runs"), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    try:
        while not (done := finished_runs(tmp_path)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        below = runs.processes_below(process.pid, "")
        for pid in (process.pid, *below):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in done}
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout.splitlines()[-1])
    assert report["trials"] == {"target": 4, "complete": 4, "pruned": 0, "failed": 0, "running": 0}
    assert len(study_of(report).trials) == 4, "no attempt stands beside the trial that went on"
    assert before == {path: path.stat().st_mtime_ns for path in done}
    states = [trial.state for trial in study_of(report).trials]
    assert TrialState.RUNNING not in states
    assert states.count(TrialState.COMPLETE) == 4


def finished_runs(folder: Path) -> list[Path]:
    found = (folder / "runs").glob("kd_digits-*/status.json")
    return [path for path in found if RunDirectory(path.parent).status().get("state") == "finished"]
