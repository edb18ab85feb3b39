"""Two Ray workers own the classes of a bank between them, and teach a student from what each of them holds."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raykd.artifacts.bank import open_bank
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.store.checkpoint import latest_checkpoint
from raykd.store.run_directory import RunDirectory
from tests.runners.runs import start

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS, CLASSES = 6, 10


def made(name: str, folder: Path, **sections: Any) -> Recipe:
    return recipe_from_dict(
        {
            "name": name,
            "data": {"name": "digits", "size": 16},
            "teacher": {"model": "cifar_resnet20", "weights": str(folder / "teacher.safetensors")},
            **sections,
        }
    )


def bank_recipe(folder: Path) -> Recipe:
    method = {
        "name": "lsgdfd",
        "statistics": "class",
        "generator": {"latent_dim": 6, "width": 8},
        "generator_optim": {"name": "adam", "lr": 1e-3},
    }
    schedule = {"steps": STEPS, "report_every": 3, "global_batch": 4 * CLASSES}
    return made("bank", folder, method=method, calibration={"per_class": 4}, schedule=schedule)


def student_recipe(folder: Path, bank: str, name: str = "student") -> Recipe:
    return made(
        name,
        folder,
        bank={"run": bank},
        student={"model": "hinton800"},  # without BatchNorm, whose statistics would be each worker's own
        method={"name": "bank_kd"},
        student_optim={"name": "sgd", "lr": 0.01},
        schedule={"steps": STEPS, "report_every": 6, "global_batch": 2 * CLASSES},
    )


@pytest.fixture(scope="module")
def store(ray_session: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a bank that two workers made, and another that this process made."""
    del ray_session
    folder = tmp_path_factory.mktemp("banks")
    torch.manual_seed(0)
    network = build_model("cifar_resnet20", num_classes=CLASSES, channels=1, size=16)
    save_file(network.state_dict(), folder / "teacher.safetensors")
    start(bank_recipe(folder), folder / "two", address="auto", workers=2, wave=3)
    start(bank_recipe(folder), folder / "one", workers=0)
    return folder


def test_two_workers_make_the_bank_that_one_makes(store: Path) -> None:
    recipe = bank_recipe(store)
    two, one = (open_bank(RunDirectory(store / place / resolve(recipe).run_id)) for place in ("two", "one"))
    assert two.classes == one.classes == tuple(range(CLASSES))
    z = torch.randn(2 * CLASSES, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(CLASSES).repeat(2)
    ours, theirs = (bank.load(range(CLASSES)).mixed(z, labels) for bank in (two, one))
    assert torch.allclose(ours, theirs, atol=1e-3)
    checkpoint = latest_checkpoint(store / "two" / resolve(recipe).run_id / "checkpoints")
    assert checkpoint is not None
    # 10 members, 3 at once on each of 2 workers: two waves of 5, the second of which is over.
    assert checkpoint.name == f"step_{2 * STEPS:07d}"


def test_copied_and_exchanged_images_teach_the_same(store: Path) -> None:
    bank = resolve(bank_recipe(store)).run_id
    students = {}
    places: dict[str, dict[str, Any]] = {
        "copy": {"address": "auto", "workers": 2, "bank": "copy"},
        "exchange": {"address": "auto", "workers": 2, "bank": "exchange"},
        "alone": {"workers": 0},
    }
    for name, where in places.items():
        recipe = student_recipe(store, bank, name)
        result = start(recipe, store / "two", **where)
        assert result.data_opened["train"] == []
        students[name] = load_file(store / "two" / resolve(recipe).run_id / "student.safetensors")
    for name in ("exchange", "alone"):
        for key, value in students["copy"].items():
            assert torch.allclose(students[name][key], value, atol=1e-4), (name, key)
