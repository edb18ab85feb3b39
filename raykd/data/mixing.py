"""CutMix and mixup: each image of a batch is blended with another one, and so are what is said of both.

One box, or one share, is drawn for the whole batch. Partners are neighbours in it, which a shuffled stream has put side
by side by chance: so each worker blends its own images, and any number of workers, if their shares are even, see what
one worker would. Shapes: B batch, C channels, H W image.
"""

from random import Random
from typing import Literal, NamedTuple

import torch
from torch import Tensor

MixKind = Literal["none", "cutmix", "mixup"]


class Mixed(NamedTuple):
    """A blended batch.

    Attributes:
        images: (B, C, H, W).
        partners: the row that each image was blended with, int64 (B,).
        own: the share of the image itself in it, the partner's being the rest.
    """

    images: Tensor
    partners: Tensor
    own: float


def mix_images(images: Tensor, kind: Literal["cutmix", "mixup"], beta: float, seed: int) -> Mixed:
    """Blend each image of a batch (B, C, H, W) with its neighbour; ``seed`` decides how.

    * ``cutmix`` (Yun et al., ICCV 2019, arXiv 1905.04899) pastes a box of the partner, with the image's aspect, its
      centre anywhere in the image; the box covers 1 - l of the area, less where it reaches over the edge.
    * ``mixup`` (Zhang et al., ICLR 2018, arXiv 1710.09412) averages both with the weights l and 1 - l.

    Args:
        images: in any range.
        kind: which of the two.
        beta: b, where l is drawn from Beta(b, b).
        seed: of the draws.
    """
    draw = Random(seed)
    own = draw.betavariate(beta, beta)
    partners = _neighbours(len(images)).to(images.device, non_blocking=True)
    others = images[partners]
    if kind == "mixup":
        return Mixed(own * images + (1 - own) * others, partners, own)
    sides = images.shape[2:]
    starts, stops = [], []
    for side in sides:
        half, centre = int(side * (1 - own) ** 0.5) // 2, draw.randrange(side)
        starts.append(max(0, centre - half))
        stops.append(min(side, centre + half))
    box = torch.zeros(sides, dtype=torch.bool)
    box[starts[0] : stops[0], starts[1] : stops[1]] = True
    covered = int(box.sum()) / box.numel()
    box = box.to(images.device, non_blocking=True)
    return Mixed(torch.where(box, others, images), partners, 1 - covered)


def _neighbours(count: int) -> Tensor:
    """Return each row's partner, int64 (count,): rows in pairs, the last of an odd number with the one before."""
    rows = torch.arange(count)
    return torch.where(rows ^ 1 < count, rows ^ 1, rows - 1).clamp(min=0)
