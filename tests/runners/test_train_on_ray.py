"""Runs by two Ray workers: what they leave behind, and that neither a kill nor a stop changes it."""

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
from tests.runners import runs

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    runs.save_teacher(folder / "teacher.safetensors")
    return folder


@pytest.fixture(scope="module")
def reference(ray_session: ModuleType, store: Path) -> Path:
    """The directory of a run that nothing disturbed."""
    recipe = runs.recipe(store / "teacher.safetensors")
    result = runs.start(recipe, store / "undisturbed")
    directory = store / "undisturbed" / resolve(recipe).run_id
    assert json.loads((directory / "status.json").read_text())["result"] == result.to_dict()
    return directory


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
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("_per_second")} for row in rows]


def test_the_run_directory_is_complete(reference: Path) -> None:
    status = json.loads((reference / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["result"]["images"] == runs.STEPS * 32
    assert json.loads((reference / "environment.json").read_text())["workers"] == 2
    steps = [row["step"] for row in curves(reference)]
    assert steps == list(range(runs.REPORT_EVERY, runs.STEPS + 1, runs.REPORT_EVERY))
    # Neither Ray's own files nor a way for Ray to go on by itself are left.
    assert list((reference.parent / ".ray").iterdir()) == []


def test_a_killed_worker_changes_nothing(reference: Path, store: Path) -> None:
    recipe = runs.recipe(store / "teacher.safetensors")
    directory = store / "worker-killed" / resolve(recipe).run_id
    killed: list[int] = []

    def kill_once() -> bool:
        if not killed and runs.reported(directory) >= 2:
            workers = runs.processes_below(os.getpid(), "RayTrainWorker")
            assert len(workers) == 2
            os.kill(workers[0], signal.SIGKILL)
            killed.append(runs.reported(directory))
        return False

    runs.start(recipe, directory.parent, kill_once)
    assert killed and killed[0] < runs.STEPS // runs.REPORT_EVERY
    assert_same_end(directory, reference)


def test_a_killed_driver_and_a_stop_change_nothing(ray_session: ModuleType, reference: Path, store: Path) -> None:
    recipe = runs.recipe(store / "teacher.safetensors")
    directory = store / resolve(recipe).run_id
    address = ray_session.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.runners.runs", address, str(store)],
        cwd=Path(__file__).parents[2],
    )
    try:
        deadline = time.monotonic() + 120
        while runs.reported(directory) < 1:
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    seen = runs.reported(directory)
    assert seen < runs.STEPS // runs.REPORT_EVERY

    before = time.monotonic()
    with pytest.raises(Interrupted, match=r"stopped at step \d+ of 60, saved"):
        runs.start(recipe, store, lambda: runs.reported(directory) > seen)
    assert time.monotonic() - before < 100
    status = json.loads((directory / "status.json").read_text())
    assert status["state"] == "interrupted"

    shutil.copytree(directory, store / "moved" / resolve(recipe).run_id)
    result = runs.start(recipe, store / "moved", workers=0)
    assert result.student.step == runs.STEPS
    steps = [row["step"] for row in curves(store / "moved" / resolve(recipe).run_id)]
    assert steps == [row["step"] for row in curves(reference)]

    runs.start(recipe, store)
    assert_same_end(directory, reference)


def test_too_many_workers_fail_at_once(ray_session: ModuleType, store: Path) -> None:
    before = time.monotonic()
    with pytest.raises(SetupError, match=r"16 workers .* need 16 CPUs; .* 4 CPUs have room for 4"):
        runs.start(runs.recipe(store / "teacher.safetensors"), store / "none", workers=16)
    assert time.monotonic() - before < 10
