"""A run in this process, without a cluster."""

from pathlib import Path

import pytest

from raykd.engine.stop import Interrupted
from raykd.recipe.experiment import resolve
from tests.runners import runs


def test_without_workers_the_run_is_made_here(tmp_path: Path) -> None:
    weights = runs.save_teacher(tmp_path / "teacher.safetensors")
    recipe = runs.recipe(weights, schedule={"steps": 4, "report_every": 2, "global_batch": 32})
    with pytest.raises(Interrupted):
        runs.start(recipe, tmp_path, lambda: runs.reported(tmp_path / resolve(recipe).run_id) == 0, workers=0)
    assert runs.start(recipe, tmp_path, workers=0).student.step == 4
