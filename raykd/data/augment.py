"""Augmentations on the device, in batches.

Each draws for the whole global batch and applies this worker's rows, so any number of workers
together see the batch that one worker would. Images come and go as float (B, C, H, W) in [0, 1];
what moves in from outside is black.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

_PAD = 4  # pixels
_DEGREES = 15.0

Augmentation = Callable[[Tensor, Generator, int, slice], Tensor]
"""(images, generator, global batch, rows of this worker) -> images."""


def crop(images: Tensor, generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Pad by 4 pixels and cut out the former size at a random place."""
    batch, _, height, width = images.shape
    corners = torch.randint(0, 2 * _PAD + 1, (global_batch, 2), generator=generator)[rows]
    top, left = corners.to(images.device, non_blocking=True).unbind(1)
    padded = F.pad(images, (_PAD, _PAD, _PAD, _PAD))
    y = top[:, None] + torch.arange(height, device=images.device)
    x = left[:, None] + torch.arange(width, device=images.device)
    b = torch.arange(batch, device=images.device)
    cut = padded.permute(0, 2, 3, 1)[b[:, None, None], y[:, :, None], x[:, None, :]]
    return cut.permute(0, 3, 1, 2)


def flip(images: Tensor, generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Mirror every other image, by chance, left to right."""
    heads = torch.rand(global_batch, generator=generator)[rows] < 0.5
    heads = heads.to(images.device, non_blocking=True).view(-1, 1, 1, 1)
    return torch.where(heads, images.flip(-1), images)


def rotate(images: Tensor, generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Turn by a random angle of up to 15 degrees about the centre."""
    turns = (2 * torch.rand(global_batch, generator=generator)[rows] - 1) * math.radians(_DEGREES)
    cos, sin, zero = turns.cos(), turns.sin(), torch.zeros_like(turns)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    matrices = matrices.to(images.device, non_blocking=True)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


AUGMENTATIONS: dict[str, Augmentation] = {"crop": crop, "flip": flip, "rotate": rotate}
