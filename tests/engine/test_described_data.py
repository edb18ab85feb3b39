"""A teacher and not one image: the data is described, nothing is opened, and blind selection still works."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.errors import UsageError
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.workspace import Workspace

DESCRIBED = "data={name: mine, num_classes: 10, channels: 1, size: 32, test: false}"
SMALL = ["method.generator_width=4", "schedule={steps: 4, report_every: 2, global_batch: 8}", "controls=[]"]


def test_a_student_is_trained_and_selected_without_an_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = tmp_path / "teacher.safetensors"
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), teacher)
    recipe = load_recipe("dafl_digits", [DESCRIBED, f"teacher={{model: lenet5, weights: {teacher}}}", *SMALL])
    place = RunContext(World.alone(), Workspace(None, tmp_path / "runs"), Runtime(), LocalReporter)
    result = run(resolve(recipe), place)
    assert result.data_opened == {"train": [], "synthetic": [], "ood": [], "calibration": [], "test": []}
    assert result.blind is not None
    assert set(result.blind.to_dict()) == {"step"}
    lines = (tmp_path / "runs" / resolve(recipe).run_id / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert all(0 <= json.loads(line)["blind/agreement"] <= 100 for line in lines)
    assert (tmp_path / "runs" / resolve(recipe).run_id / "student.safetensors").is_file()


@pytest.mark.parametrize(
    "data",
    [
        "{name: mine, num_classes: 10, channels: 1, test: false}",
        "{name: mine, num_classes: 10, channels: 1, size: 32}",
        "{name: mine, num_classes: 10, size: 32, test: false}",
    ],
)
def test_half_a_description_is_refused(data: str) -> None:
    with pytest.raises(UsageError, match="described"):
        load_recipe("dafl_digits", [f"data={data}"])
