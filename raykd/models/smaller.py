"""Which model to distil another into: of the same family, where that has one that is small enough."""

from typing import NamedTuple

import torch

from raykd.errors import UsageError
from raykd.models import build_model

_SHARE = 0.6  # of the teacher's parameters that a student may have
_FAMILIES: tuple[tuple[str, ...], ...] = (
    ("lenet5_bn", "lenet5", "lenet5_half"),
    ("hinton1200", "hinton800"),
    ("alexnet", "alexnet_half"),
    ("cifar_resnet110", "cifar_resnet56", "cifar_resnet44", "cifar_resnet32", "cifar_resnet20", "cifar_resnet8"),
    ("wrn_40_2", "wrn_16_2", "wrn_40_1", "wrn_16_1", "wrn_10_1"),
    ("resnet50", "resnet34", "resnet18", "wrn_16_2", "wrn_16_1", "wrn_10_1"),
    ("torchvision/resnet50", "torchvision/resnet34", "torchvision/resnet18", "torchvision/mobilenet_v3_small"),
)
"""Each from the largest to the smallest."""
_ANY = {
    "grey": ("lenet5", "lenet5_half", "wrn_10_1"),
    "small": ("resnet18", "wrn_40_2", "wrn_40_1", "wrn_16_1", "wrn_10_1"),
    "large": ("torchvision/resnet18", "torchvision/mobilenet_v3_small"),
}
_LARGE = 96  # pixels from which networks that keep small maps large cost too much


class Smaller(NamedTuple):
    """A model to distil another into: its name, its number of parameters, and why this one."""

    model: str
    parameters: int
    reason: str


def smaller_model(
    teacher: str | None, parameters: int, *, num_classes: int, channels: int, size: int, most: int | None = None
) -> Smaller | None:
    """Return a model to distil a teacher into: the largest that is small enough, or else the smallest.

    Args:
        teacher: its model's name; None for a network of the user's own.
        parameters: how many it has.
        num_classes: that it knows.
        channels: of its images.
        size: height and width of these in pixels.
        most: parameters that it may have; default: a share of the teacher's.

    Returns:
        The smallest where all are too large; None where no model takes such images.
    """
    limit = _SHARE * parameters if most is None else most
    anything = _ANY["grey" if channels == 1 else "small" if size < _LARGE else "large"]
    found: Smaller | None = None
    for names in (*_families_of(teacher), anything, _ANY["small"]):
        for name in names:
            try:
                with torch.device("meta"):
                    network = build_model(name, num_classes=num_classes, channels=channels, size=size)
            except UsageError:  # it takes no such images
                continue
            count = sum(parameter.numel() for parameter in network.parameters())
            if count <= limit:
                share = f"at most {_SHARE:.0%} of the teacher's" if most is None else f"at most {most:,}"
                return Smaller(name, count, f"the largest of {', '.join(names)} with {share} parameters")
            if found is None or count < found.parameters:
                few = "far fewer parameters than the teacher" if most is None else "as few parameters as is wanted"
                reason = f"the smallest built-in one for such images; none has {few}"
                found = Smaller(name, count, reason)
    return found


def _families_of(teacher: str | None) -> list[tuple[str, ...]]:
    if teacher is None:
        return []
    kind = "wrn_" if teacher.startswith("wrn_") else teacher
    return [family for family in _FAMILIES if any(name == teacher or name.startswith(kind) for name in family[:-1])][:1]
