"""Run directories with a bank in them that nobody has trained: enough to draw images from."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from raykd.artifacts.bank import finish_bank, product_name, write_products
from raykd.data.datasets import data_spec
from raykd.distributed.world import World
from raykd.generators import GeneratorBank, GeneratorConfig
from raykd.models import build_model
from raykd.recipe.recipe import dump_recipe, recipe_from_dict
from raykd.store.run_directory import RunDirectory

CONFIG = GeneratorConfig(architecture="lsgdfd", latent_dim=5, width=4, upsamplings=2)
SPEC = data_spec("digits")


def save_teacher(store: Path, seed: int = 0) -> None:
    """Write an untrained teacher into a store."""
    torch.manual_seed(seed)
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    save_file(network.state_dict(), store / "teacher.safetensors")


def save_run(store: Path, name: str, **sections: Any) -> Path:
    """Make a run directory with nothing but a recipe."""
    recipe = {
        "name": "tiny",
        "data": "digits",
        "teacher": {"model": "lenet5", "weights": str(store / "teacher.safetensors")},
        "student": {"model": "lenet5_half"},
        "method": {"name": "noise"},
        "student_optim": {"name": "adam", "lr": 1e-3},
        "schedule": {"steps": 4, "report_every": 2, "global_batch": 8},
        "seed": 3,
        **sections,
    }
    (store / name).mkdir()
    (store / name / "recipe.yaml").write_text(dump_recipe(recipe_from_dict(recipe)))
    return store / name


def save_bank(run: Path, classes: tuple[int, ...], conditions: int = 0, seed: int = 9) -> None:
    """Give a run the untrained bank of such a seed."""
    bank = GeneratorBank(classes, CONFIG, channels=1, size=32, conditions=conditions)
    bank.initialise(seed)
    with torch.no_grad():  # so that images leave the range of pixels, as those of a trained bank do
        dict(bank.named_parameters())["norm3.weight"].mul_(100)
    write_products(RunDirectory(run), {product_name(label): bank.member_state(label) for label in classes})
    weights = (run.parent / "teacher.safetensors").read_bytes()
    about = {
        "generator": CONFIG.model_dump(), "channels": 1, "size": 32, "num_classes": 10, "conditions": conditions,
        "mean": list(SPEC.mean), "std": list(SPEC.std), "classes": list(classes), "seed": 3, "steps": 1,
        "teacher_sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip
    finish_bank(RunDirectory(run), about, World.alone())
