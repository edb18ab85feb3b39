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
from raykd.recipe.recipe import Recipe, dump_recipe, recipe_from_dict
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


def student_recipe(folder: Path, name: str, **bank: str) -> Recipe:
    return made(
        name,
        folder,
        bank=bank,
        student={"model": "hinton800"},  # without BatchNorm, whose statistics would be each worker's own
        method={"name": "bank_kd"},
        student_optim={"name": "sgd", "lr": 0.01},
        schedule={"steps": STEPS, "report_every": 6, "global_batch": 2 * CLASSES},
    )


@pytest.fixture(scope="module")
def store(ray_session: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a bank and a student that two workers made, and another with a bank that this process made."""
    del ray_session
    folder = tmp_path_factory.mktemp("banks")
    torch.manual_seed(0)
    network = build_model("cifar_resnet20", num_classes=CLASSES, channels=1, size=16)
    save_file(network.state_dict(), folder / "teacher.safetensors")
    (folder / "bank.yaml").write_text(dump_recipe(bank_recipe(folder)))
    result = start(exchanging(folder), folder / "two", address="auto", workers=2, wave=3, bank="exchange")
    assert result.data_opened["train"] == []
    start(bank_recipe(folder), folder / "one", workers=0)
    return folder


def exchanging(folder: Path) -> Recipe:
    return student_recipe(folder, "exchange", recipe=str(folder / "bank.yaml"))


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


def assert_taught_alike(store: Path, name: str, where: dict[str, Any]) -> None:
    """Train a student from the bank of two workers, and compare it with theirs."""
    recipe = student_recipe(store, name, run=resolve(bank_recipe(store)).run_id)
    assert start(recipe, store / "two", **where).data_opened["train"] == []
    ours, theirs = (
        load_file(store / "two" / resolve(one).run_id / "student.safetensors") for one in (recipe, exchanging(store))
    )
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], atol=1e-4), key


def test_exchanged_images_teach_what_those_of_the_whole_bank_teach(store: Path) -> None:
    assert_taught_alike(store, "alone", {"workers": 0})


@pytest.mark.endurance
def test_copied_images_teach_what_exchanged_ones_teach(store: Path) -> None:
    assert_taught_alike(store, "copy", {"address": "auto", "workers": 2, "bank": "copy"})
