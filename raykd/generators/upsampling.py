"""Convolutions of image generators as matrix products on channels-last images.

Every function takes any leading dimensions, so that generators stacked along a first dimension
run as one batched product. Shapes: ... leading, B batch, H W image, I and O channels in and out.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def upsampled_conv3x3(images: Tensor, weight: Tensor) -> Tensor:
    """Double the size by nearest neighbour, then convolve 3x3 with zero padding 1.

    Exact, but with 9 products per 2x2 output pixels and channel pair instead of 36. In one
    dimension, with d_i = x_i - x_(i-1) and the sum s of the taps w_0, w_1, w_2,

        y_(2i) = s x_i - w_0 d_i        y_(2i+1) = s x_i + w_2 d_(i+1)

    are 3 products for 2 outputs; two dimensions are the tensor product of that. All coefficients
    are 1 or -1, so no accuracy is lost, and the enlarged images never exist.

    Args:
        images: [..., B, H, W, I].
        weight: [..., O, I, 3, 3], as in `torch.nn.Conv2d`.

    Returns:
        [..., B, 2H, 2W, O].
    """
    over_rows = weight.sum(-2)
    row_phases = torch.cat((-weight[..., 0, :], weight[..., 2, :]), dim=-3)
    sums = _column_products(images, over_rows)
    phases = _column_products(_steps(images, -3), row_phases)
    return _interleave(sums, phases, -3)


def thin_conv3x3(images: Tensor, weight: Tensor) -> Tensor:
    """Convolve 3x3 with zero padding 1, for few output channels.

    One product yields all 9 O taps of a pixel, which are then shifted and added: less memory
    traffic than collecting 9 I inputs per pixel as long as O is much smaller than I.

    Args:
        images: [..., B, H, W, I].
        weight: [..., O, I, 3, 3], as in `torch.nn.Conv2d`.

    Returns:
        [..., B, H, W, O].
    """
    height, width = images.shape[-3:-1]
    by_tap = weight.permute(*range(weight.dim() - 4), -2, -1, -4, -3).flatten(-4, -2)
    taps = F.pad(_product(images, by_tap), (0, 0, 1, 1, 1, 1)).unflatten(-1, (9, -1))
    shifted = [
        taps[..., row : row + height, column : column + width, 3 * row + column, :]
        for row in range(3)
        for column in range(3)
    ]
    return torch.stack(shifted).sum(dim=0)


def channels_last(x: Tensor) -> Tensor:
    """Lay feature maps [B, C, H, W] out as [B, H, W, C]."""
    return x.permute(0, 2, 3, 1).contiguous()


def activated(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise channels-last ``x`` [B, H, W, C] and apply LeakyReLU(0.2)."""
    # In place it would be slower, compiled even twice as slow: its backward then reads its result.
    y: Tensor = F.leaky_relu(norm(x.permute(0, 3, 1, 2)), 0.2).permute(0, 2, 3, 1)
    return y


def _column_products(images: Tensor, taps: Tensor) -> Tensor:
    """Double the width and convolve along it: [..., B, H, W, I], [..., O, I, 3] -> [..., O]."""
    column_phases = torch.cat((-taps[..., 0], taps[..., 2]), dim=-2)
    sums = _product(images, taps.sum(-1))
    phases = _product(_steps(images, -2), column_phases)
    return _interleave(sums, phases, -2)


def _product(images: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the channels of every pixel: [..., B, H, W, I], [..., O, I] -> [..., B, H, W, O]."""
    outputs: Tensor = (images.flatten(-4, -2) @ matrix.mT).unflatten(-2, images.shape[-4:-1])
    return outputs


def _steps(images: Tensor, axis: int) -> Tensor:
    """Subtract the previous pixel along an axis (-3 rows, -2 columns), zeros around: n to n + 1."""
    if not torch.compiler.is_compiling():
        steps: Tensor = _EagerSteps.apply(images, axis)
        return steps
    zeros = (0, 0) * (-axis - 1) + (1, 1)
    return F.pad(images, zeros).diff(dim=axis)


def _interleave(sums: Tensor, phases: Tensor, axis: int) -> Tensor:
    """Join even and odd outputs along an axis (-3 rows, -2 columns), doubling it.

    The sums, n long, are common to both; of the phases, n + 1 long, the first half of the channels
    belongs to the even and the second to the odd outputs.
    """
    if not torch.compiler.is_compiling():
        outputs: Tensor = _EagerInterleave.apply(sums, phases, axis)
        return outputs
    size = sums.shape[axis]
    even, odd = phases.chunk(2, dim=-1)
    pair = (sums + even.narrow(axis, 0, size), sums + odd.narrow(axis, 1, size))
    return torch.stack(pair, dim=axis).flatten(axis - 1, axis)


# A compiler fuses the two functions above. Run one operation at a time they are bound by memory
# traffic, most of it in the backward that autograd derives; hence the hand-written pairs below.


class _EagerSteps(torch.autograd.Function):
    """`_steps` with every number written once, forward and backward."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, axis: int) -> Tensor:
        ctx.axis = axis
        size = images.shape[axis]
        shape = list(images.shape)
        shape[axis] = size + 1
        steps = images.new_empty(shape)
        steps.select(axis, 0).copy_(images.select(axis, 0))
        torch.sub(
            images.narrow(axis, 1, size - 1),
            images.narrow(axis, 0, size - 1),
            out=steps.narrow(axis, 1, size - 1),
        )
        torch.neg(images.select(axis, size - 1), out=steps.select(axis, size))
        return steps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        size = gradient.shape[ctx.axis] - 1
        return gradient.narrow(ctx.axis, 0, size) - gradient.narrow(ctx.axis, 1, size), None


class _EagerInterleave(torch.autograd.Function):
    """`_interleave` with every number written once, forward and backward."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, phases: Tensor, axis: int) -> Tensor:
        ctx.axis = axis
        size = sums.shape[axis]
        even, odd = phases.chunk(2, dim=-1)
        shape = list(sums.shape)
        shape.insert(len(shape) + axis + 1, 2)
        pair = sums.new_empty(shape)
        torch.add(sums, even.narrow(axis, 0, size), out=pair.select(axis, 0))
        torch.add(sums, odd.narrow(axis, 1, size), out=pair.select(axis, 1))
        return pair.flatten(axis - 1, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        axis = ctx.axis
        even, odd = gradients[0].unflatten(axis, (-1, 2)).unbind(axis)
        size = even.shape[axis]
        shape = list(even.shape)
        shape[axis], shape[-1] = size + 1, 2 * shape[-1]
        phases = even.new_empty(shape)
        to_even, to_odd = phases.chunk(2, dim=-1)
        to_even.narrow(axis, 0, size).copy_(even)
        to_even.select(axis, size).zero_()
        to_odd.narrow(axis, 1, size).copy_(odd)
        to_odd.select(axis, 0).zero_()
        return even + odd, phases, None
