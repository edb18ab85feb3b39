"""A trial is a process of its own, and a whole plan of such is about right."""

import os
import select
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raykd.config.runtime import Runtime
from raykd.data import parquet
from raykd.data.datasets import Images
from raykd.data.ledger import OpenedData
from raykd.data.stored import StoredImages
from raykd.distributed.world import World
from raykd.errors import RunFailed
from raykd.models import build_model
from raykd.planning import predict as prediction
from raykd.planning import profile
from raykd.planning.predict import predict
from raykd.recipe.experiment import resolve
from raykd.recipe.sections import DataConfig
from raykd.spec import DataSpec
from tests.planning.tiny import SHORT, recipe, site


def test_a_trial_is_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), "teacher.safetensors")
    one = recipe(schedule={**SHORT, "global_batch": 64})
    found = prediction.measure(resolve(one), Runtime(threads=1), site(tmp_path), tmp_path / "a", 2)
    assert found["steps_peak"] >= found["built"] > 100 * 2**20, "libraries and all"
    assert found["cpu_seconds"] > 0


@pytest.mark.endurance
@pytest.mark.slow
def test_time_and_memory_of_real_processes_are_foretold_roughly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), "teacher.safetensors")
    one = recipe(schedule={**SHORT, "global_batch": 4096})
    runtime = Runtime(threads=1)
    predicted = predict(resolve(one), runtime, site(tmp_path), tmp_path / "a", memory=None, direct=False)
    assert sorted(predicted.trials) == [512, 1024]
    measured = prediction.measure(resolve(one), runtime, site(tmp_path), tmp_path / "a", 5)
    assert 0.5 < predicted.at("cpu_seconds") / measured["cpu_seconds"] < 2
    grown = predicted.at("steps_peak") - predicted.at("built"), measured["steps_peak"] - measured["built"]
    assert 0.5 < grown[0] / grown[1] < 2
    assert predicted.peak() > 200 * 2**20, "a whole process, libraries and all"


def test_steps_that_cost_differently_are_timed_apart_and_count_as_often_as_there_are() -> None:
    seen: list[int] = []

    def step(batches: object) -> None:
        seen.append(method.steps_done)
        time.sleep(0.02 if method.steps_done >= 3 else 0.0)
        method.steps_done += 1

    method = SimpleNamespace(steps_done=0, step=step)
    built: Any = SimpleNamespace(method=method, streams={})
    found = profile._steps(built, World.alone(), 4, [range(3), range(3, 10)])
    count = profile.WARM_UP + 4
    assert max(seen[:count]) == 2
    assert seen[count:] == list(range(3, 3 + count))
    assert found["last_seconds"] >= 0.02
    assert found["seconds"] == pytest.approx(0.7 * found["last_seconds"], rel=0.2)


def test_a_step_that_takes_all_the_time_there_is_counts_though_nothing_was_warmed_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(batches: object) -> None:
        time.sleep(0.05)
        method.steps_done += 1

    monkeypatch.setattr(profile, "_LONG_ENOUGH", 0.02)
    method = SimpleNamespace(steps_done=0, step=step)
    built: Any = SimpleNamespace(method=method, streams={})
    assert profile._steps(built, World.alone(), 5, [range(10)])["seconds"] >= 0.05
    assert method.steps_done == 1
    monkeypatch.setattr(profile, "_LONG_ENOUGH", 0.08)
    assert profile._steps(built, World.alone(), 5, [range(10)])["seconds"] >= 0.05
    assert method.steps_done == 3, "two steps, and no more"


@pytest.mark.parametrize(("buffer", "kind"), [(None, Images), (12, Images), (11, StoredImages)])
def test_the_evaluation_is_timed_with_what_decodes_its_images_in_the_run(
    tmp_path: Path, buffer: int | None, kind: type
) -> None:
    about = {"name": "made", "split": "test", "count": "12", "shape": "[4, 4, 3]", "encoding": parquet.RAW}
    parquet.write(tmp_path / "made", "test", [(bytes([k] * 48), 0) for k in range(12)], {**about, "classes": '["a"]'})
    spec = DataSpec("made", 2, 3, 4, (0.5,) * 3, (0.5,) * 3)
    built: Any = SimpleNamespace(opened=OpenedData(tmp_path), spec=spec)
    data = DataConfig(name="made", buffer=buffer)
    images = profile._open_test(built, data, torch.arange(5), 12)
    assert isinstance(images, kind)
    assert len(images.labels) == 5


def test_a_trial_that_has_no_time_left_is_ended(tmp_path: Path) -> None:
    late = replace(site(tmp_path), deadline=time.monotonic())
    began = time.monotonic()
    with pytest.raises(RunFailed, match="were ended after 10 minutes: .* with a lower schedule.global_batch"):
        prediction.measure(resolve(recipe()), Runtime(), late, tmp_path / "a", 2)
    assert time.monotonic() - began < 30
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_trial_ends_with_the_process_that_asked_for_it() -> None:
    """Also where that is killed, and closes nothing."""
    read, write = os.pipe()
    asking = os.fork()
    if asking == 0:
        trial = os.fork()
        if trial == 0:
            profile._end_with_parent()
            os.write(write, b"x")
            time.sleep(60)
            os._exit(1)
        time.sleep(60)
        os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.kill(asking, signal.SIGKILL)
    os.waitpid(asking, 0)
    ended, _, _ = select.select([read], [], [], 10)
    assert ended, "its end of the pipe is still open"
    os.close(read)
