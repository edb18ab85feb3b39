"""The losses of the first steps of a packaged recipe, kept in a file beside this one.

Measured in float64, whose only purpose is to survive another processor: the game between generator and student
magnifies a difference in rounding about a million times in 20 steps at the recipes' learning rates, which leaves
nothing of float32's seven digits, and more than enough of float64's sixteen.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from raykd.engine.build import build
from raykd.engine.run import run
from raykd.engine.synthesis import make_image_sets
from raykd.recipe.experiment import resolve
from tests.golden.shrunk import shrink, shrunk

FOLDER = Path(__file__).parent
STEPS = 10
SCHEDULE = 20  # steps that the recipe plans for, as do its teacher and its bank, which make them all
COMMAND = "python -m tests.golden.regenerate"

LARGER = {
    "cda_cifar100", "cda_cifar100_images", "cda_imagenet_images", "cda_imagenet_resnet18", "cda_tiny50",
    "cda_tiny50_images", "cda_tiny50_images_quick", "cda_tiny50_quick", "cudfkd_cifar10_resnet34",
    "deepinversion_cifar10_resnet20", "deepinversion_cifar10_resnet20_images", "deepinversion_cifar10_resnet20_quick",
    "dfad_cifar10", "dfad_mnist", "dfq_cifar10_resnet34", "di_generator_cifar10_wrn16_1", "fast10_cifar100_wrn16_2",
    "fast10_cifar10_resnet34", "fast5_cifar100_wrn16_2", "fast5_cifar10_wrn16_1", "fast_cifar10_wrn28_1",
    "fast_fashion_mnist_quick", "fast_tiny50", "gapssg_cifar10_wrn16_1", "nayer_cifar100_wrn16_2",
    "nayer_cifar10_resnet34", "sre2l_cifar100", "sre2l_cifar100_images", "supervised_cifar10_wrn40_2", "zskt_cifar10",
}  # fmt: skip
"""Recipes that differ from a smaller one of the same method in numbers alone: their curves are slow proofs."""


def path_of(name: str) -> Path:
    """Return the file of a recipe's curve."""
    return FOLDER / f"{name}.json"


def read_golden(name: str) -> dict[str, Any]:
    """Return overrides and losses as they were."""
    golden: dict[str, Any] = json.loads(path_of(name).read_text())
    return golden


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Return overrides and losses as they are now; a teacher or a bank that ``folder`` lacks is trained first."""
    losses: dict[str, list[float]] = {}
    with float64(), shrunk(SCHEDULE, folder) as (place, load):
        recipe, overrides = load(name), shrink(name, SCHEDULE)
        experiment = resolve(recipe)
        for source in (experiment.teacher, experiment.bank):
            if source is not None:
                run(source, place)
        make_image_sets(experiment, place.world, place.workspace)
        built = build(experiment, place.world, place.runtime, place.workspace)
        for step in range(STEPS):
            batches = {role: stream.batch(step) for role, stream in built.streams.items()}
            for key, value in built.method.step(batches).items():
                losses.setdefault(key, []).append(float(f"{value.item():.9g}"))
    return {"overrides": overrides, "losses": losses}


@contextmanager
def float64() -> Iterator[None]:
    """Compute in double precision on one thread, also where the code asks for float32."""

    def load(network_input: Any, pixels: Tensor) -> Tensor:
        return network_input.move(pixels).double().div_(255)  # type: ignore[no-any-return]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(Tensor, "float", Tensor.double),
            mock.patch("raykd.data.streams._NetworkInput.load", load),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
