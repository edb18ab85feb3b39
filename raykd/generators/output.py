"""What the last layer of a generator gives its teacher: images in normalised space, of pixels that there can be.

Published generators end in a BatchNorm without parameters: mean 0 and variance 1 in every channel of every batch,
whatever the teacher was shown. That suits data normalised to about that. Where a teacher was shown plain pixels in
[0, 1], half of such an image is darker than black. So there are three kinds of output, of y with mean 0 and variance 1:

    standardised    x = y                                                  as published
    pixels          x = low + (high - low) sigmoid(g (c + (1 + s) y))      the range of pixels, smoothly
    learned         x = tanh(c) + m sigmoid(s + ln(1 / (m - 1))) y         where nobody knows the range

Symbols: low and high are what a pixel of 0 and of 1 is in normalised space, per channel; c and s are parameters, one
number a channel, which begin at 0. With g = 1.702 the sigmoid is about the normal distribution's own, so that normally
distributed y begin as pixels of all levels alike: standard deviation 0.29, as images have 0.2 to 0.35.

A learned output begins as x = y, its scale at most m = 1.25: networks are shown images of variance 1 or less, and
without a limit a generator pleases by ever larger numbers. Of a LeNet-5 on unit digits 200 steps of DAFL taught a half
one 24 and 90 % (standardised, two seeds), 85 and 90 (pixels), 44 and 47 (learned without limits), 48 to 91 (learned,
three runs): what is known should be said.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raykd.spec import DataSpec

Kind = Literal["standardised", "pixels", "learned"]
OutputRange = Literal["auto", "standardised", "pixels", "learned"]
"""A recipe's choice; ``auto`` is what ``choose_output`` says."""

_GAIN = 1.702
_LARGEST = 1.25
_MOST_OUTSIDE = 0.5
"""Of pixels of standardised images: 0.01 for CIFAR-10's constants, 0.34 for MNIST's, 0.66 for mean 0 and std 1."""
_LEAST_CONTRAST = 0.05
"""Of standardised images, in units of pixels: 0.2 to 0.5 for known sets, 1 / 255 for a teacher that was shown bytes."""


@dataclass(frozen=True)
class Output:
    """A kind of output, with the range of pixels in normalised space, one number a channel."""

    kind: Kind
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @classmethod
    def of(cls, kind: Kind, mean: Sequence[float], std: Sequence[float]) -> "Output":
        """Return the output for images that are normalised by mean and std, one number a channel."""
        low, high = ([(level - m) / s for m, s in zip(mean, std, strict=True)] for level in (0, 1))
        return cls(kind, tuple(low), tuple(high))

    @property
    def learns(self) -> bool:
        """Tell whether there are parameters, centre and scale."""
        return self.kind != "standardised"

    def __call__(self, y: Tensor, centre: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """Map y (..., C, H, W) to images of the same shape; c and s are ``centre`` and ``scale`` (..., C, 1, 1)."""
        if centre is None or scale is None:
            return y
        if self.kind == "learned":
            return centre.tanh() + _LARGEST * (scale - math.log(_LARGEST - 1)).sigmoid() * y
        # Made on the device they would wait for its queue at every call.
        ends = (torch.tensor(end, dtype=y.dtype).view(-1, 1, 1) for end in (self.low, self.high))
        low, high = (end.to(y.device, non_blocking=True) for end in ends)
        return low + (high - low) * (_GAIN * (centre + (1 + scale) * y)).sigmoid()


STANDARDISED = Output("standardised")


def outside_share(spec: DataSpec) -> float:
    """Return which share of the pixels of images with mean 0 and variance 1, normally distributed, are none."""
    shares = [
        0.5 * (math.erfc(mean / std / math.sqrt(2)) + math.erfc((1 - mean) / std / math.sqrt(2)))
        for mean, std in zip(spec.mean, spec.std, strict=True)
    ]
    return sum(shares) / len(shares)


def choose_output(spec: DataSpec, choice: OutputRange = "auto") -> Output:
    """Return a generator's output for images that are normalised as ``spec`` says.

    ``auto`` is the published one where most pixels of standardised images are possible and differ visibly; else the
    range of pixels; and where nobody has stated mean and std, a learned centre and scale.
    """
    if choice == "auto":
        if not spec.normalisation_known:
            choice = "learned"
        elif outside_share(spec) > _MOST_OUTSIDE or min(spec.std) < _LEAST_CONTRAST:
            choice = "pixels"
        else:
            choice = "standardised"
    return Output.of(choice, spec.mean, spec.std)
