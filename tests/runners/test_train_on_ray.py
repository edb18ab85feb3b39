"""Runs by two Ray workers: what they leave behind, and that neither a kill nor a stop changes it.

Compared with what two workers make without Ray, which is what torchrun would start.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from raykd.engine.stop import Interrupted
from raykd.errors import SetupError
from raykd.recipe.experiment import resolve
from raykd.store.run_directory import RunDirectory
from tests.architecture.imports import ROOT
from tests.runners import runs

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    runs.save_teacher(folder / "teacher.safetensors")
    return folder


@pytest.fixture(scope="module")
def disturbed(ray_session: ModuleType, store: Path) -> tuple[Path, Path]:
    """The directory of a run of which a worker was killed, that was stopped, and went on without Ray; and a copy.

    The copy is of when it stopped.
    """
    recipe = runs.recipe(store / "teacher.safetensors")
    directory = store / "disturbed" / resolve(recipe).run_id
    killed: list[int] = []

    def kill_then_stop() -> bool:
        seen = runs.reported(directory)
        if not killed and seen >= 2:
            workers = runs.processes_below(os.getpid(), "RayTrainWorker")
            assert len(workers) == 2
            os.kill(workers[0], signal.SIGKILL)
            killed.append(seen)
        return bool(killed) and seen > killed[0] + 2  # two more may have been on their way when it died

    with pytest.raises(Interrupted, match=r"stopped at step \d+ of 60, saved"):
        runs.start(recipe, directory.parent, kill_then_stop)
    assert killed
    stopped = store / "stopped" / resolve(recipe).run_id
    shutil.copytree(directory, stopped)
    runs.start_without_ray(store, store / "undisturbed", directory.parent)
    return directory, stopped


@pytest.fixture(scope="module")
def reference(disturbed: tuple[Path, Path], store: Path) -> Path:
    """The directory of a run that nothing disturbed."""
    return store / "undisturbed" / disturbed[0].name


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested dicts and lists by path, without the time it took."""
    if isinstance(state, dict):
        pairs = [(str(key), value) for key, value in state.items() if key != "seconds"]
    elif isinstance(state, list | tuple):
        pairs = [(str(index), value) for index, value in enumerate(state)]
    else:
        return {name: state}
    return {path: leaf for key, value in pairs for path, leaf in flat(value, f"{name}/{key}").items()}


def assert_same_end(directory: Path, other: Path) -> None:
    """Compare weights, optimizers, pool and figures bit for bit, and the curves line by line."""
    last = f"checkpoints/step_{runs.STEPS:07d}"
    for file in ("student", *(f"{last}/{name}" for name in ("student", "last", "blind", "best"))):
        weights = directory / f"{file}.safetensors"
        if weights.is_file() or (other / f"{file}.safetensors").is_file():
            assert weights.read_bytes() == (other / f"{file}.safetensors").read_bytes(), file
    one, two = (flat(torch.load(path / last / "state.pt", weights_only=True)) for path in (directory, other))
    assert one.keys() == two.keys()
    different = [
        name
        for name in one
        if not (torch.equal(one[name], two[name]) if torch.is_tensor(one[name]) else one[name] == two[name])
    ]
    assert different == []
    assert curves(directory) == curves(other)


def curves(directory: Path) -> list[dict[str, float]]:
    rows = RunDirectory(directory).rows()
    return [{k: v for k, v in row.items() if not k.endswith("_per_second")} for row in rows]


def test_the_run_directory_is_whole_when_it_is_stopped(disturbed: tuple[Path, Path]) -> None:
    _, stopped = disturbed
    status = RunDirectory(stopped).status()
    assert status["state"] == "interrupted"
    assert json.loads((stopped / "environment.json").read_text())["workers"] == 2
    steps = [row["step"] for row in curves(stopped)]
    assert steps == list(range(runs.REPORT_EVERY, int(steps[-1]) + 1, runs.REPORT_EVERY))
    newest = sorted((stopped / "checkpoints").iterdir())[-1]
    assert newest.name == f"step_{status['step']:07d}"
    # Neither Ray's own files nor a way for Ray to go on by itself are left.
    assert list((disturbed[0].parent / ".ray").iterdir()) == []


def test_a_killed_worker_and_a_stop_change_nothing(disturbed: tuple[Path, Path], reference: Path) -> None:
    assert_same_end(disturbed[0], reference)


def test_one_worker_goes_on_where_two_were_stopped(disturbed: tuple[Path, Path], reference: Path, store: Path) -> None:
    result = runs.start(runs.recipe(store / "teacher.safetensors"), disturbed[1].parent, workers=0)
    assert result.last is not None
    assert result.last.step == runs.STEPS
    assert [row["step"] for row in curves(disturbed[1])] == [row["step"] for row in curves(reference)]


@pytest.mark.endurance
def test_a_killed_driver_changes_nothing(ray_session: ModuleType, reference: Path, store: Path) -> None:
    recipe = runs.recipe(store / "teacher.safetensors")
    directory = store / "driver-killed" / resolve(recipe).run_id
    address = ray_session.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "tests.runners.runs", str(store), address, str(directory.parent)]
    driver = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while runs.reported(directory) < 1:
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    assert runs.reported(directory) < runs.STEPS // runs.REPORT_EVERY
    runs.start(recipe, directory.parent)
    assert_same_end(directory, reference)


def test_too_many_workers_fail_at_once(ray_session: ModuleType, store: Path) -> None:
    before = time.monotonic()
    with pytest.raises(SetupError, match=r"16 workers .* need 16 CPUs; .* 2 CPUs have room for 2"):
        runs.start(runs.recipe(store / "teacher.safetensors"), store / "none", workers=16)
    assert time.monotonic() - before < 10
