"""Runs by two Ray workers: what they leave behind, and that no worker that hangs or dies, and no stop, changes it.

Compared with what two workers make without Ray, which is what torchrun would start.
"""

import json
import logging
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from raykd.engine.stop import Interrupted
from raykd.errors import SetupError
from raykd.recipe.experiment import resolve
from raykd.store.run_directory import RunDirectory
from tests.runners import runs

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    runs.save_teacher(folder / "teacher.safetensors")
    return folder


def stop_one_worker() -> int:
    """Stop the process of one of two workers, as a machine that swaps or a debugger would; return its id."""
    workers = runs.processes_below(os.getpid(), "RayTrainWorker")
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGSTOP)
    return workers[1]


@pytest.fixture(scope="module")
def said() -> Iterator[list[str]]:
    """What the driver has logged."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("raykd").addHandler(handler)
    yield lines
    logging.getLogger("raykd").removeHandler(handler)


@pytest.fixture(scope="module")
def disturbed(ray_session: ModuleType, store: Path, said: list[str]) -> tuple[Path, Path]:
    """The directory of a run in which workers hung, that was stopped meanwhile, and went on without Ray; and a copy.

    The first one that hung was given up for others. The stop is asked for when another hangs; the copy is of then.
    """
    recipe = runs.recipe(store / "teacher.safetensors")
    directory = store / "disturbed" / resolve(recipe).run_id
    hung: list[int] = []
    steps: list[int] = []
    asked: list[float] = []

    def hang_then_stop() -> bool:
        seen = runs.reported(directory)
        # Two reports more may have been on their way when it was stopped.
        if seen >= 2 and (not hung or (len(hung) == 1 and seen > steps[0] + 2)):
            hung.append(stop_one_worker())
            steps.append(seen)
            asked.append(time.monotonic())
        return len(hung) > 1

    with pytest.raises(Interrupted, match=r"stopped at step \d+ of 60, saved"):
        runs.start(recipe, directory.parent, hang_then_stop, hang_seconds=2, on_hang="restart")
    assert time.monotonic() - asked[1] < 30
    for pid in hung:
        assert any(
            re.search(rf"process {pid}\) has not answered for \d+ s: its process is stopped; last", it) for it in said
        )
        assert not Path(f"/proc/{pid}").exists()
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
        pairs = [(str(key), value) for key, value in state.items() if key not in ("seconds", "phases")]
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
    return [
        {k: v for k, v in row.items() if not k.endswith("_per_second") and not k.startswith("waiting/")} for row in rows
    ]


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


def test_a_worker_that_hung_and_a_stop_change_nothing(disturbed: tuple[Path, Path], reference: Path) -> None:
    assert_same_end(disturbed[0], reference)


def test_one_worker_goes_on_where_two_were_stopped(disturbed: tuple[Path, Path], reference: Path, store: Path) -> None:
    result = runs.start(runs.recipe(store / "teacher.safetensors"), disturbed[1].parent, workers=0)
    assert result.last is not None
    assert result.last.step == runs.STEPS
    assert [row["step"] for row in curves(disturbed[1])] == [row["step"] for row in curves(reference)]


@pytest.mark.endurance
@pytest.mark.parametrize("policy", ["wait", "fail"])
def test_a_worker_that_hangs_ends_a_run_where_that_is_wanted(
    disturbed: tuple[Path, Path], store: Path, said: list[str], policy: str
) -> None:
    """Or holds it up until it goes on, and changes nothing."""
    recipe = runs.recipe(store / "teacher.safetensors")
    directory = store / policy / resolve(recipe).run_id
    hung: list[int] = []

    def hang() -> bool:
        if not hung and runs.reported(directory) >= 2:
            hung.append(stop_one_worker())
        elif policy == "wait" and len(hung) == 1 and any(f"process {hung[0]}) has" in line for line in said):
            os.kill(hung[0], signal.SIGCONT)
            hung.append(0)  # told to go on
        return False

    if policy == "wait":
        runs.start(recipe, directory.parent, hang, hang_seconds=2)
        assert_same_end(directory, store / "undisturbed" / directory.name)
        return
    with pytest.raises(
        SetupError, match=r"worker \d .* answered for .* stopped; last step .* the same command"
    ) as ended:
        runs.start(recipe, directory.parent, hang, hang_seconds=2, on_hang="fail")
    status = RunDirectory(directory).status()
    assert (status["state"], status["reason"]) == ("failed", str(ended.value))
    assert not Path(f"/proc/{hung[0]}").exists()


@pytest.mark.endurance
def test_workers_save_before_they_stop(disturbed: tuple[Path, Path], store: Path) -> None:
    recipe = runs.recipe(store / "teacher.safetensors")
    directory = store / "saved" / resolve(recipe).run_id
    with pytest.raises(Interrupted):
        runs.start(recipe, directory.parent, lambda: runs.reported(directory) >= 3)
    status = RunDirectory(directory).status()
    newest = sorted((directory / "checkpoints").iterdir())[-1]
    assert (status["state"], f"step_{status['step']:07d}") == ("interrupted", newest.name)
    runs.start(recipe, directory.parent)
    assert_same_end(directory, store / "undisturbed" / directory.name)


def test_too_many_workers_fail_at_once(ray_session: ModuleType, store: Path) -> None:
    before = time.monotonic()
    with pytest.raises(SetupError, match=r"16 workers .* need 16 CPUs; .* 2 CPUs have room for 2"):
        runs.start(runs.recipe(store / "teacher.safetensors"), store / "none", workers=16)
    assert time.monotonic() - before < 10
