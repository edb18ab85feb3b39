"""Fitting 8-bit pixels to a network's input, and the memory that they take.

Shapes: B batch, C channels, H W image, S side of the network input.
"""

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from raykd.data.spec import DataSpec
from raykd.errors import UsageError

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's "L"


def fit(pixels: Tensor, spec: DataSpec) -> Tensor:
    """Map uint8 pixels (B, C, H, W) to (B, spec.channels, spec.size, spec.size).

    Grey becomes RGB by repetition, RGB becomes grey by luminance. The shorter side is resized
    (bilinear, antialiased) and the centre cut out; pixels that fit already are returned as they
    are.
    """
    pixels = _with_channels(pixels, spec.channels)
    height, width = pixels.shape[-2:]
    shorter = min(height, width)
    if shorter != spec.size:
        height = round(height * spec.size / shorter)
        width = round(width * spec.size / shorter)
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    top, left = (height - spec.size) // 2, (width - spec.size) // 2
    return pixels[..., top : top + spec.size, left : left + spec.size]


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


def free_memory() -> int | None:
    """Return the bytes of main memory that this process may still take, or None where unknown."""
    known = [bytes_ for bytes_ in (_machine_memory(), _container_memory()) if bytes_ is not None]
    return min(known, default=None)


def _machine_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return _physical_memory()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _container_memory() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None


def _gib(bytes_: int) -> str:
    return f"{bytes_ / 2**30:.2f} GiB"
