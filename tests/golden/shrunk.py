"""The packaged recipes at a size for tests: few steps, small batches, made-up data for what is not at hand.

Every field but the sizes below keeps the recipe's value.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from raykd.config.runtime import Runtime
from raykd.data import parquet
from raykd.data.datasets import DATASETS
from raykd.distributed.world import World
from raykd.engine.build import build_spec
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext
from raykd.methods import METHODS
from raykd.methods.pool_inversion import PoolInversionConfig
from raykd.models import build_model
from raykd.recipe import experiment
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.store.checkpoint import save_weights
from raykd.store.workspace import Workspace

Load = Callable[..., Recipe]

HEAVY = (
    "resnet", "cifar_resnet", "resnext", "alexnet", "vgg", "mobilenet", "shufflenet", "googlenet", "densenet", "wrn",
    "torchvision",
)  # fmt: skip
SMALL = "wrn_16_1"  # stands for heavy networks: convolutions, BatchNorm and shortcuts like theirs
SMALL_SIZE = 16  # pixels
ROWS = 48  # of each split of made-up data
FEW = (
    "cifar100",
    "imagenet",
    "tiny-imagenet-50",
)  # sets that have FEW_CLASSES here, so that these rows show each several times
FEW_CLASSES = 8


def shrink(name: str, steps: int) -> list[str]:
    """Return the overrides that make a packaged recipe small."""
    recipe = load_recipe(name)
    by_class = METHODS[recipe.method.name].sharded_by == "classes"
    batch = 2 * DATASETS[recipe.data.name].num_classes if by_class else 16
    pairs = [f"schedule.steps={steps}", f"schedule.report_every={steps}", f"schedule.global_batch={batch}"]
    smaller: dict[str, Any] = {"latent_dim": 8, "generator_width": 8, "discriminator_width": 8}
    if isinstance(recipe.method, PoolInversionConfig):
        smaller |= {
            "generator_maps": [8] * len(recipe.method.generator_maps), "inner_steps": 2, "student_steps": 2,
            "warmup_calls": min(1, recipe.method.warmup_calls), "contrast_memory": 24, "contrast_negatives": 16,
        }  # fmt: skip
        smaller |= {"synthesis_batch": 16} if recipe.method.synthesis_batch else {}
        smaller |= {"warmup_batches": 2} if recipe.method.warmup_batches else {}
    pairs += [f"method.{key}={n}" for key, n in smaller.items() if hasattr(recipe.method, key)]
    if hasattr(recipe.method, "student_steps") or hasattr(recipe.method, "student_updates"):
        # A student that learns fast and often from few images is chaotic: it would magnify the rounding of float64.
        assert recipe.student_optim is not None
        pairs += [f"student_optim.lr={recipe.student_optim.lr / 20:g}"]
    # A job's, and what of them students are trained on.
    pairs += ["method.images=16"] * hasattr(recipe.method, "images")
    pairs += ["bank.images=16"] * (recipe.bank is not None and recipe.bank.images is not None)
    if hasattr(recipe.method, "generator"):
        pairs += ["method.generator.latent_dim=8", "method.generator.width=8"]
    if is_heavy(recipe):
        pairs += [f"student.model={SMALL}"] * (recipe.student is not None)
        pairs += [f"data.size={SMALL_SIZE}"]
        pairs += [f"teacher.model={SMALL}"] * (recipe.teacher is not None and not recipe.teacher.recipe)
    return pairs


def is_heavy(recipe: Recipe) -> bool:
    """Tell whether student or teacher is a network that would take tests too long."""
    if recipe.student is not None:
        return (recipe.student.model or "").startswith(HEAVY)
    assert recipe.teacher is not None
    if recipe.teacher.recipe is not None:
        return is_heavy(load_recipe(recipe.teacher.recipe))
    return (recipe.teacher.model or "").startswith(HEAVY)


@contextmanager
def shrunk(steps: int, root: Path, device: str = "cpu") -> Iterator[tuple[RunContext, Load]]:
    """Give a place in which runs find their teachers and controls small, and the loader they use."""

    def load(name: str, overrides: Iterable[str] = ()) -> Recipe:
        # A teacher's overrides may choose a network; a heavy one stays the small one.
        kept = [pair for pair in overrides if not (pair.startswith("student.model=") and is_heavy(load_recipe(name)))]
        recipe = load_recipe(name, [*shrink(name, steps), *kept])
        for used in filter(None, (recipe.data.name, recipe.data.ood)):
            make_data(used, root / "data")
        if recipe.teacher is not None and recipe.teacher.weights is not None:
            make_teacher(recipe, root / "data" / recipe.teacher.weights)
        return recipe

    place = RunContext(
        World.alone(device),
        Workspace(root / "data", root / "runs"),
        Runtime(compile="off", teacher_logits="live"),
        LocalReporter,
    )
    with ExitStack() as patches:
        few = {name: replace(DATASETS[name], num_classes=FEW_CLASSES, class_names=()) for name in FEW}
        patches.enter_context(mock.patch.dict(DATASETS, few))
        patches.enter_context(mock.patch.object(experiment, "load_recipe", load))  # of all that a recipe names
        yield place, load


def make_data(name: str, root: Path) -> None:
    """Write a data set as Parquet: noise whose brightness and stripes tell the class."""
    if name == "digits" or name not in DATASETS or (root / name).exists():
        return
    spec = DATASETS[name]
    rng = np.random.default_rng(0)
    shape = (SMALL_SIZE * 2, SMALL_SIZE * 2, spec.channels)
    for split in ("train", "test"):
        labels = rng.permutation(np.arange(ROWS) % spec.num_classes)
        pixels = rng.integers(0, 100, (ROWS, *shape))
        pixels += (150 * labels / spec.num_classes).astype(int).reshape(-1, 1, 1, 1)
        records = [(image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True)]
        metadata = {
            "name": name,
            "split": split,
            "count": str(ROWS),
            "shape": json.dumps(shape),
            "encoding": parquet.RAW,
            "classes": json.dumps([str(index) for index in range(spec.num_classes)]),
        }
        parquet.write(root / name, split, records, metadata)


def make_teacher(recipe: Recipe, path: Path) -> None:
    """Write the weights of an untrained teacher whose opinions are strong all the same."""
    assert recipe.teacher is not None
    assert recipe.teacher.model is not None
    spec = build_spec(recipe.data, Workspace(None, path.parent))
    torch.manual_seed(0)
    sizes = {"num_classes": spec.num_classes, "channels": spec.channels, "size": spec.size}
    network = build_model(recipe.teacher.model, **sizes)
    list(network.parameters())[-2].data.mul_(30)  # the weights of the last layer
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_weights(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
