"""Every classifier of torchvision by its own name, untrained, and what torchvision says of its weights."""

from pathlib import Path
from typing import Any

import torchvision
from torch import nn
from torchvision.models import WeightsEnum

from raykd.errors import UsageError, unknown
from raykd.models.hub_files import find_hub_file
from raykd.models.published_facts import PublishedFacts, resized_and_cropped

_SHIFTED_INSIDE = {"googlenet", "inception_v3"}
"""With their published weights torchvision's own networks turn ImageNet's constants into 0.5 and 0.5 first."""


def build_torchvision(name: str, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """Build ``torchvision.models.<name>`` with fresh weights.

    Raises:
        UsageError: no such classifier, images without three channels, or a size it cannot take.
    """
    _check_name(name)
    if channels != 3:
        raise UsageError(
            f"torchvision/{name} takes images of 3 channels, the data has {channels}; "
            "repeat the channel in the data or choose one of the built-in models"
        )
    try:
        network: nn.Module = torchvision.models.get_model(**torchvision_arguments(name, num_classes, size))
    except (AssertionError, ValueError) as error:
        raise UsageError(f"torchvision/{name} cannot be built for {size} x {size} images: {error}") from error
    return network


def torchvision_arguments(name: str, num_classes: int, size: int) -> dict[str, Any]:
    """Return what ``torchvision.models.get_model`` is called with for an untrained classifier."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Their side heads would make a tuple of the output in training mode.
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": size}
    elif name.startswith("maxvit"):
        options = {"input_size": (size, size)}
    return {"name": name, "weights": None, "num_classes": num_classes, **options}


def find_entry(name: str, weights: str) -> WeightsEnum:
    """Return torchvision's entry of published weights, such as ``IMAGENET1K_V2``; ``DEFAULT`` is its newest.

    Raises:
        UsageError: no such classifier, or none of its weights are called so.
    """
    _check_name(name)
    entries = torchvision.models.get_model_weights(name)
    if weights != "DEFAULT" and weights not in entries.__members__:
        raise unknown(f"weights of torchvision/{name}", weights, ["DEFAULT", *entries.__members__])
    found: WeightsEnum = entries[weights] if weights != "DEFAULT" else entries.DEFAULT
    return found


def torchvision_facts(name: str, weights: str) -> PublishedFacts:
    """Return what torchvision says of published weights: of their transforms and their metadata.

    Raises:
        UsageError: as ``find_entry``.
    """
    entry = find_entry(name, weights)
    shown, classes = entry.transforms(), tuple(entry.meta["categories"])
    half = (0.5, 0.5, 0.5)
    return PublishedFacts(
        source=f"torchvision's {entry}",
        channels=3,
        size=shown.crop_size[0],
        mean=half if name in _SHIFTED_INSIDE else tuple(shown.mean),
        std=half if name in _SHIFTED_INSIDE else tuple(shown.std),
        num_classes=len(classes),
        class_names=classes,
        preparation=resized_and_cropped(shown.resize_size[0], shown.crop_size[0]),
    )


def torchvision_file(name: str, weights: str) -> Path:
    """Return the file of published weights in torch's hub cache, whose content is what its name tells.

    Raises:
        UsageError: as ``find_entry``, or if it is not there, saying where to put it.
        CorruptError: if its sha256 is another.
    """
    entry = find_entry(name, weights)
    return find_hub_file(entry.url, f"torchvision/{name} {entry.name}")


def _check_name(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown("torchvision model", name, known)
