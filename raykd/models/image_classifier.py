"""A network together with how its images are normalised: what is exported, and what stands in exported source.

B images of C channels and S x S pixels, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pick_logits(output: Any, place: int | str | None = None) -> Any:
    """Return the logits in what a network returns: at an index, a key or an attribute, else ``.logits``, else all."""
    if place is None or isinstance(output, Tensor):
        return getattr(output, "logits", output)
    try:
        return output[place]
    except (KeyError, IndexError, TypeError):
        return getattr(output, str(place), output)


class ImageClassifier(nn.Module):
    """Takes the pixels of images as they are, frames them in black where its network wants that, and normalises them.

    Mean and std are of pixels in [0, 1], one for each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int = 0,
        output: int | str | None = None,
    ) -> None:
        """Take a network, which is to be in evaluation mode; ``output`` is where its logits are in what it returns."""
        super().__init__()
        self.network, self.pad, self.output = network, pad, output
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, S, S] of uint8 to logits [B, K]."""
        levels = images.float()
        if self.pad:
            levels = F.pad(levels, (self.pad,) * 4)
        logits: Tensor = pick_logits(self.network((levels / 255 - self.mean) / self.std), self.output)
        return logits
