"""A teacher that answers all images alike is refused, and one that answers as by chance is warned of."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from raykd.data.datasets import Images
from raykd.distributed.world import World
from raykd.engine.evaluator import Evaluator
from raykd.engine.run import run
from raykd.engine.teacher_check import judge_teacher
from raykd.errors import UsageError
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.spec import DataSpec
from tests.golden.shrunk import shrunk

SHORT = ["teacher={model: lenet5, weights: made.safetensors}", "schedule.steps=4", "schedule.report_every=2"]
SPREAD = torch.eye(10)


def judged(answers: list[int], labels: list[int], classes: int = 10, probes: Tensor = SPREAD) -> list[str]:
    """Judge a teacher of these answers to a test split."""
    pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    spec = DataSpec("made", classes, 1, 2, (0.5,), (0.5,))
    evaluator = Evaluator(Images(pixels, torch.tensor(labels)), spec, World.alone(), None)
    evaluator.teacher_logits = torch.eye(classes)[torch.tensor(answers)]
    return judge_teacher(probes[:, :classes], evaluator, World.alone())


@pytest.mark.parametrize(
    ("answers", "labels", "classes", "said"),
    [
        (list(range(10)) * 20, [0, *range(1, 10)] * 20, 10, None),
        (list(range(10)) * 20, list(range(1, 10)) * 22 + [0, 0], 10, "hardly above chance"),
        ([0] * 20 + list(range(10)) * 18, list(range(10)) * 20, 10, None),  # 91 %
        ([0, 1] * 200, [0, 0, 1, 1] * 100, 2, "hardly above chance"),
        ([0, 1] * 50, [0, 1, 0, 1, 0, 1, 0, 0, 1, 1] * 10, 2, None),  # 80 %
        ([0] * 100, [0] * 90 + [1] * 10, 2, "names class 0 for every test image"),  # however often that is right
        ([3] * 20, [3] * 20, 10, None),  # a split of one class
        ([0, 1], [1, 0], 10, None),  # too few to tell
    ],
)
def test_answers_as_by_chance_are_told(answers: list[int], labels: list[int], classes: int, said: str | None) -> None:
    found = judged(answers, labels, classes)
    assert len(found) == (said is not None)
    if said is not None:
        assert found[0].startswith("teacher: ")
        assert said in found[0]


def test_one_answer_to_all_images_is_refused_but_not_one_to_random_images_alone() -> None:
    alike = torch.eye(10)[[4] * 8]
    with pytest.raises(UsageError, match="answers every image alike"):
        judged([4] * 30, list(range(10)) * 3, probes=alike)
    with pytest.raises(UsageError, match="answers every image alike"):
        judge_teacher(
            alike, Evaluator(None, DataSpec("made", 10, 1, 2, (0.5,), (0.5,)), World.alone(), None), World.alone()
        )
    assert judged(list(range(10)) * 3, list(range(10)) * 3, probes=alike) == []


@pytest.mark.parametrize("name", ["dafl_digits", "kd_digits"])
@pytest.mark.parametrize("kind", ["constant", "random"])
def test_a_run_refuses_a_constant_teacher_and_tells_of_a_random_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, kind: str
) -> None:
    torch.manual_seed(0)
    weights = build_model("lenet5", num_classes=10, channels=1, size=32).state_dict()
    if kind == "constant":
        weights = {key: torch.zeros_like(tensor) for key, tensor in weights.items()}
        weights[list(weights)[-1]] += torch.arange(10.0)
    with shrunk(4, tmp_path) as (place, load):
        experiment = resolve(load(name, [*SHORT, "controls=[]"]))
        save_file(weights, tmp_path / "data" / "made.safetensors")
        directory = place.workspace.run(experiment.run_id)
        if kind == "constant":
            with pytest.raises(UsageError, match="answers every image alike"):
                run(experiment, place)
            assert not directory.exists
            return
        result = run(experiment, place)
    told = [text for text in result.warnings or [] if text.startswith("teacher: ")]
    assert len(told) == 1
    assert told[0] in directory.status()["warnings"]
    assert caplog.text.count(told[0]) == 1
