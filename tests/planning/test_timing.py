"""Some steps of a run, made here, tell what it takes by phase."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.models import build_model
from raykd.planning.timing import RunTiming, time_run
from raykd.recipe.experiment import resolve
from raykd.store.workspace import Workspace
from tests.planning.tiny import recipe

POOL = {
    "name": "pool_inversion", "generator_maps": [8, 8, 8], "inner_steps": 2, "warmup_calls": 3, "student_steps": 20,
    "latent_dim": 8,
}  # fmt: skip
SCHEDULE = {"steps": 20, "report_every": 5, "global_batch": 16}


def test_phases_are_timed_apart_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(build_model("lenet5_bn", num_classes=10, channels=1, size=32).state_dict(), "teacher.safetensors")
    one = recipe(method=POOL, schedule=SCHEDULE, teacher={"model": "lenet5_bn", "weights": "teacher.safetensors"})
    found = time_run(resolve(one), World.current(), Runtime(), Workspace(None, tmp_path), enough=0.2)
    assert len(found.phases) == 2
    assert found.phases[1] > found.phases[0] > 0, "the warm-up updates no student"
    assert 0 <= found.report < 60, "nought where a busy machine's steps vary by more than a report takes"
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.safetensors"]


def test_a_run_costs_its_steps_by_phase_and_its_reports() -> None:
    timing, one = RunTiming(1.0, [0.5, 2.0], 0.25), recipe(method=POOL, schedule=SCHEDULE)
    assert timing.seconds(one) == 3 * 0.5 + 17 * 2.0 + 4 * 0.25
    assert timing.seconds(one, 5) == 3 * 0.5 + 2 * 2.0 + 0.25
    assert timing.seconds(one, 2) == 2 * 0.5
    assert timing.step == 2.0
