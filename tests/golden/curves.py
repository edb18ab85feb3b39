"""The losses of the first steps of a packaged recipe, kept in a file beside this one.

Measured in float64, whose only purpose is to survive another processor: the game between generator and student
magnifies a difference in rounding about a million times in 20 steps at the recipes' learning rates, which leaves
nothing of float32's seven digits, and more than enough of float64's sixteen.
"""

import json
import math
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
# Instruction sets as far apart as SSE4 and AVX-512 differ by up to 4e-9 in a step; an error in a loss is far larger.
# Ten steps amplify it: students of few images were up to 3.8e-5 apart in the end between two machines, those of a
# pool, which is inverted against them, 1.9e-3. The first half of the steps tells of a change in either case.
TOLERANCE, LATE_TOLERANCE, LATE_TOLERANCE_OF_POOL = 1e-5, 1e-4, 1e-2
_ZERO = 1e-12  # apart from each other two losses may be whatever they are
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


def differences(ours: dict[str, Any], golden: dict[str, Any]) -> list[str]:
    """Name the losses that differ, and the first step at which they do."""
    found = []
    for name in sorted(ours["losses"].keys() | golden["losses"].keys()):
        pairs = list(zip(ours["losses"].get(name, []), golden["losses"].get(name, []), strict=False))
        late = LATE_TOLERANCE_OF_POOL if "pool/images" in golden["losses"] else LATE_TOLERANCE
        allowed = [TOLERANCE if 2 * i < len(pairs) else late for i in range(len(pairs))]
        near = (math.isclose(a, b, rel_tol=most, abs_tol=_ZERO) for (a, b), most in zip(pairs, allowed, strict=True))
        first = next((i for i, is_near in enumerate(near) if not is_near), None)
        if name not in ours["losses"] or name not in golden["losses"]:
            found.append(f"{name} is only in one of both")
        elif first is not None:
            found.append(f"{name} from step {first}")
    return found


def measure(name: str, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Return overrides and losses as they are now; a teacher or a bank that ``folder`` lacks is trained first."""
    losses: dict[str, list[float]] = {}
    with float64(), shrunk(SCHEDULE, folder, device) as (place, load):
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
