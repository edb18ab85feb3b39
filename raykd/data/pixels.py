"""Fitting 8-bit pixels to a network's input, and the memory that they take.

Shapes: B batch, C channels, H W image, S side of the network input.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from raykd.distributed.memory import free_memory
from raykd.errors import UsageError
from raykd.spec import DataSpec

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's "L"


def fit(pixels: Tensor, spec: DataSpec) -> Tensor:
    """Map uint8 pixels (B, C, H, W) to (B, spec.channels, spec.size, spec.size).

    Grey becomes RGB by repetition, RGB becomes grey by luminance. The shorter side is resized to
    ``spec.shorter_side`` (bilinear, antialiased), unless it has so many pixels, the centre of ``spec.interior`` cut
    out, and then padded with black. Pixels of the network's size are returned as they are only where nothing is cut
    out (``crop_pct`` 1), no black is added and the channels are the network's.

    Raises:
        UsageError: if the channels cannot be mapped.
    """
    pixels = _with_channels(pixels, spec.channels)
    height, width = pixels.shape[-2:]
    shorter, resized, side = min(height, width), spec.shorter_side, spec.interior
    if shorter != resized:
        height = round(height * resized / shorter)
        width = round(width * resized / shorter)
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    top, left = (height - side) // 2, (width - side) // 2
    cut = pixels[..., top : top + side, left : left + side]
    return F.pad(cut, (spec.pad,) * 4) if spec.pad else cut


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    match pixels.shape[1], channels:
        case have, want if have == want:
            return pixels
        case 1, want:
            return pixels.expand(-1, want, -1, -1)
        case 3, 1:
            weights = torch.tensor(_LUMINANCE).view(1, 3, 1, 1)
            return (pixels * weights).sum(1, keepdim=True).round_().to(torch.uint8)
        case have, want:
            raise UsageError(f"images of {have} channels cannot serve a network of {want}; 1 and 3 can be mapped")


def require_memory(name: str, split: str, count: int, spec: DataSpec) -> None:
    """Check that a split fits into half of the free memory as uint8.

    Raises:
        UsageError: if it does not.
    """
    needed = count * spec.channels * spec.size**2
    free = free_memory()
    if free is None or needed <= free // 2:
        return
    raise UsageError(
        f"{name}/{split} takes {_gib(needed)} as {count:,} images of "
        f"{spec.channels}x{spec.size}x{spec.size}, more than half of the {_gib(free)} of free "
        f"memory; use a smaller input size, a smaller set, or {_gib(2 * needed)} of free memory"
    )


def _gib(bytes_: int) -> str:
    return f"{bytes_ / 2**30:.2f} GiB"
