"""Two tuners on two machines, each with a Ray of its own, share a study and an object store; one falls silent."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from raykd.search.attributes import RUN, TUNER
from tests.object_store import Server
from tests.runners import runs
from tests.runners.test_tune import SMALL, written

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.endurance, pytest.mark.timeout(1500)]

TAKING_OVER_SECONDS = 240
"""A start of Ray, and a minute without a sign of life."""


class Machine:
    """A machine is a folder here: files that stay on it are there, and its Ray is its tuner's own."""

    def __init__(self, folder: Path, space: Path, store: str, study: str) -> None:
        folder.mkdir()
        (folder / "here.yaml").write_text(
            yaml.safe_dump({"address": "local", "cpus_per_worker": 1, "threads": 1, "study": study})
        )
        self._output, self._log = (folder / "output").open("w+"), (folder / "log").open("w+")
        words = [sys.executable, "-m", "raykd", "tune", str(space), "--cluster", str(folder / "here.yaml"), "--json"]
        self.process = subprocess.Popen(
            [*words, "--out", store],
            env={**os.environ, "RAYKD_CACHE": str(folder / "cache")},
            stdout=self._output, stderr=self._log,
        )  # fmt: skip

    def fall_silent(self, file: Path) -> None:
        """Stop its tuner where that is at nothing in the database's file, which nobody else could use otherwise."""
        while True:
            self.process.send_signal(signal.SIGSTOP)
            with closing(sqlite3.connect(file, timeout=1)) as database, suppress(sqlite3.OperationalError):
                database.execute("BEGIN IMMEDIATE")
                return
            self.process.send_signal(signal.SIGCONT)
            time.sleep(0.1)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return Path(self._log.name).read_text()

    def result(self, seconds: float, code: int = 0) -> dict[str, Any]:
        """Wait for the end of the search, and return what its last line says."""
        assert self.process.wait(seconds) == code, self.log
        found: dict[str, Any] = json.loads(Path(self._output.name).read_text().splitlines()[-1])
        return found

    def end(self) -> None:
        """Kill what is left of it."""
        for pid in (*runs.processes_below(self.process.pid, ""), self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()
        self._log.close()


def until(what: Callable[[], Any], seconds: float = 400) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def test_a_tuner_that_was_taken_for_dead_leaves_its_trial_to_the_other(tmp_path: Path, s3: Server) -> None:
    """Its workers go on while it is silent, so two machines are at one run, until it wakes up and gives up."""
    long = {**SMALL, "schedule.steps": 15_000, "schedule.report_every": 500}
    space = written(tmp_path, overrides=long, trials=1)
    store, study = f"s3://{s3.new_bucket()}/runs", f"sqlite:///{tmp_path}/study.db"
    machines = list[Machine]()

    def trials() -> list[FrozenTrial]:
        names = optuna.get_all_study_names(study) if (tmp_path / "study.db").exists() else []
        return optuna.load_study(study_name=names[0], storage=study).get_trials() if names else []

    def is_at_work(tuners: set[str | None]) -> bool:
        found = trials()
        return bool(found) and found[0].state == TrialState.RUNNING and found[0].user_attrs.get(TUNER) not in tuners

    try:
        machines.append(Machine(tmp_path / "one", space, store, study))
        until(lambda: any(re.match("kd_.*/checkpoints/step_", name) for name in s3.files(store)))
        (first,) = trials()
        machines[0].fall_silent(tmp_path / "study.db")
        machines.append(Machine(tmp_path / "two", space, store, study))
        until(lambda: is_at_work({None, first.user_attrs[TUNER]}), TAKING_OVER_SECONDS)
        machines[0].process.send_signal(signal.SIGCONT)
        report = machines[0].result(60, code=1)  # none of its trials is complete
        assert report["trials"] == {"target": 1, "complete": 0, "pruned": 0, "failed": 0, "running": 1}
        assert machines[0].log.count("trial 0: another tuner has taken it over") == 1
        report = machines[1].result(900)
        assert report["trials"] == {"target": 1, "complete": 1, "pruned": 0, "failed": 0, "running": 0}
        (ended,) = trials()
        assert (ended.state, ended.user_attrs[RUN]) == (TrialState.COMPLETE, first.user_attrs[RUN])
        alone = f"s3://{s3.new_bucket()}/runs"
        machines.append(Machine(tmp_path / "three", space, alone, f"sqlite:///{tmp_path}/alone.db"))
        machines[2].result(900)
        assert student(s3, store, ended) == student(s3, alone, ended), "bit for bit as undisturbed"
    finally:
        for machine in machines:
            machine.end()


def student(s3: Server, store: str, trial: FrozenTrial) -> bytes:
    name = f"{store}/{trial.user_attrs[RUN]}/student.safetensors"
    with s3.filesystem.open_input_stream(name.removeprefix("s3://")) as file:
        content: bytes = file.read()
    return content
