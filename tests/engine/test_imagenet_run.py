"""From files of ImageNet's shape to a student: converted, streamed in random parts, taught by a larger teacher."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raykd.config.runtime import Runtime
from raykd.data.convert import convert
from raykd.data.imagenet_labels import all_wnids
from raykd.distributed.world import World
from raykd.engine.build import build_spec, load_teacher
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.errors import UsageError
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.store.workspace import Workspace
from raykd.tasks.evaluate import evaluate_run
from tests import made_imagenet

LABELS = [3, 40, 500, 999]


def network(classes: int) -> nn.Module:
    return build_model("cifar_resnet8", num_classes=classes, channels=3, size=32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a set of four classes, and a teacher of all 1000."""
    root = tmp_path_factory.mktemp("imagenet")
    for label in LABELS:
        made_imagenet.write(root / "source", "folders", range(label, label + 1), 8, 40)
    (root / "four.txt").write_text("\n".join(all_wnids()[label] for label in LABELS))
    convert("imagenet", root / "source", root, class_list=root / "four.txt")
    torch.manual_seed(0)
    save_file(
        build_model("cifar_resnet8", num_classes=1000, channels=3, size=32).state_dict(), root / "teacher.safetensors"
    )
    return root


def recipe(root: Path, **sections: object) -> Recipe:
    content = {
        "name": "of_four",
        "data": {"name": "four", "size": 32, "buffer": 64, "random_crop": True, "augment": ["flip"]},
        "teacher": {"model": "cifar_resnet8", "weights": str(root / "teacher.safetensors")},
        "student": {"model": "cifar_resnet8"},
        "method": {"name": "kd"},
        "student_optim": {"name": "sgd", "lr": 0.1},
        "schedule": {"steps": 2, "report_every": 1, "global_batch": 8},
    }
    return recipe_from_dict({**content, **sections})


def test_a_teacher_of_all_classes_answers_for_those_of_the_set(root: Path, tmp_path: Path) -> None:
    experiment, workspace = resolve(recipe(root)), Workspace(root, tmp_path)
    spec = build_spec(experiment.recipe.data, workspace)
    teacher, _ = load_teacher(experiment, spec, workspace)
    whole = network(1000).eval()
    whole.load_state_dict(load_file(root / "teacher.safetensors"))
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = whole(images)
    torch.testing.assert_close(teacher(images)[0], expected[:, LABELS])


def test_weights_for_another_number_of_classes_are_refused(root: Path, tmp_path: Path) -> None:
    save_file(network(7).state_dict(), tmp_path / "seven.safetensors")
    other = resolve(recipe(root, teacher={"model": "cifar_resnet8", "weights": str(tmp_path / "seven.safetensors")}))
    workspace = Workspace(root, tmp_path)
    with pytest.raises(UsageError, match="is for 7 classes, the model was built for 4"):
        load_teacher(other, build_spec(other.recipe.data, workspace), workspace)


def test_a_student_is_trained_and_evaluated(root: Path, tmp_path: Path) -> None:
    experiment = resolve(recipe(root))
    place = RunContext(World.alone(), Workspace(root, tmp_path), Runtime(), LocalReporter)
    result = run(experiment, place)
    assert result.data_opened["train"] == ["four/train"]
    again = evaluate_run(place.workspace.run(experiment.run_id), root, World.alone())
    assert result.last is not None
    assert again.student.top1 == result.last.top1
    assert again.student.agreement == result.last.agreement
