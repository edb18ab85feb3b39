"""A trained student as its user holds it: a network that says how its input is normalised, and classifies images.

Shapes: N images, C channels, S side of the input, K classes.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.errors import UsageError
from raykd.spec import DataSpec

_BATCH = 500


class Classification(NamedTuple):
    """Answers for N images: class numbers int64 (N,), their names, and probabilities (N, K) of all classes."""

    classes: Tensor
    names: list[str]
    probabilities: Tensor


class Student(nn.Module):
    """A network in evaluation mode. ``spec`` tells its input: channels, size, mean and std, and names its classes."""

    def __init__(self, network: nn.Module, spec: DataSpec) -> None:
        """Take the network with its weights."""
        super().__init__()
        self.network, self.spec = network, spec
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, C, S, S), see ``spec.normalise``, to logits (N, K)."""
        output: Any = self.network(images)
        logits: Tensor = getattr(output, "logits", output)
        return logits

    @torch.no_grad()
    def classify(self, images: Any) -> Classification:
        """Classify images of the student's size, without the padding it may want; they are padded and normalised here.

        Args:
            images: array or tensor, uint8 or floats in [0, 1], of shape (N, S, S), (N, S, S, C) or (N, C, S, S).

        Raises:
            UsageError: for any other shape or type, saying what is wanted.
        """
        unit, parameter = self._unit(images), next(self.parameters())
        logits = [self(self.spec.normalise(some.to(parameter.device).float() / 255)) for some in unit.split(_BATCH)]
        probabilities = torch.cat(logits).float().softmax(1).cpu()
        classes = probabilities.argmax(1)
        names = self.spec.class_names
        return Classification(classes, [names[i] if names else str(i) for i in classes.tolist()], probabilities)

    def _unit(self, images: Any) -> Tensor:
        """Return images (N, C, S, S) in [0, 255], padded."""
        given = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
        channels, size = self.spec.channels, self.spec.interior
        shaped = given.unsqueeze(1) if given.dim() == 3 else given
        if shaped.dim() == 4 and shaped.shape[1:] == (size, size, channels) != (channels, size, size):
            shaped = shaped.permute(0, 3, 1, 2)
        in_range = given.dtype == torch.uint8 or (
            given.is_floating_point() and bool(((given >= 0) & (given <= 1)).all())
        )
        if shaped.shape[1:] != (channels, size, size) or shaped.dim() != 4 or not in_range or not len(shaped):
            raise UsageError(
                f"the student takes images of {channels} x {size} x {size}, uint8 or floats in [0, 1], as one array "
                f"(N, {size}, {size}, {channels}) or (N, {channels}, {size}, {size}); got {given.dtype} "
                f"{list(given.shape)}{'' if in_range else ' with other values'}: resize and scale them first"
            )
        levels = shaped if given.dtype == torch.uint8 else shaped * 255
        return F.pad(levels, (self.spec.pad,) * 4) if self.spec.pad else levels
