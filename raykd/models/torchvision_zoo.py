"""Every classifier of torchvision by its own name, untrained."""

from typing import Any

import torchvision
from torch import nn

from raykd.errors import UsageError, unknown


def build_torchvision(name: str, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """Build ``torchvision.models.<name>`` with fresh weights.

    Raises:
        UsageError: no such classifier, images without three channels, or a size it cannot take.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown("torchvision model", name, known)
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
