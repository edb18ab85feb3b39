"""Which model to distil another into: of the same family, where that has one that is small enough."""

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


def smaller_model(
    teacher: str | None, parameters: int, *, num_classes: int, channels: int, size: int, most: int | None = None
) -> tuple[str, int] | None:
    """Return a model to distil a teacher into, and its number of parameters: the largest that is small enough.

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
    most = int(_SHARE * parameters) if most is None else most
    anything = _ANY["grey" if channels == 1 else "small" if size < _LARGE else "large"]
    found = None
    for names in (*_families_of(teacher), anything, _ANY["small"]):
        for name in names:
            try:
                with torch.device("meta"):
                    network = build_model(name, num_classes=num_classes, channels=channels, size=size)
            except UsageError:  # it takes no such images
                continue
            count = sum(parameter.numel() for parameter in network.parameters())
            if count <= most:
                return name, count
            found = (name, count) if found is None or count < found[1] else found
    return found


def _families_of(teacher: str | None) -> list[tuple[str, ...]]:
    if teacher is None:
        return []
    kind = "wrn_" if teacher.startswith("wrn_") else teacher
    return [family for family in _FAMILIES if any(name == teacher or name.startswith(kind) for name in family[:-1])][:1]
