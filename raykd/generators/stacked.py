"""BatchNorm and the projection of many generators at once, stacked along a first dimension.

Shapes: K generators, B images of each, H W image, C maps, Z latent, s first size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MOMENTUM = 0.1


def projection(z: Tensor, weight: Tensor, bias: Tensor | None, first_size: int) -> Tensor:
    """Return the first maps [K, B, s, s, C] of latents [K, B, Z].

    Args:
        z: the latents.
        weight: [K, C s s, Z], as stacked from `torch.nn.Linear`.
        bias: [K, C s s], or None.
        first_size: s.
    """
    # In this order, the gradient of the weight comes out in its own memory layout.
    rows = torch.bmm(weight, z.mT) if bias is None else torch.baddbmm(bias[..., None], weight, z.mT)
    maps: Tensor = rows.unflatten(1, (-1, first_size, first_size))
    return maps.permute(0, 4, 2, 3, 1).contiguous()


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, slope: float | None, running: tuple[Tensor, ...]
) -> Tensor:
    """Normalise each generator's maps by their own statistics, then apply LeakyReLU; refine the running statistics.

    Args:
        x: [K, B, H, W, C]; statistics are taken in float32 at least.
        weight: [K, C], or None for 1.
        bias: [K, C], or None for 0.
        eps: added to the variance.
        slope: of LeakyReLU, None for no activation.
        running: mean and unbiased variance [K, C], moved by a tenth towards those of ``x``, as in `torch.nn`.

    Returns:
        As ``x``.
    """
    rows = x.flatten(1, 3)
    if torch.compiler.is_compiling():
        y, mean, variance = _plain(rows, weight, bias, eps, slope)
    else:
        y, mean, variance = _EagerNorm.apply(rows, weight, bias, eps, slope)
    count = rows.shape[1]
    with torch.no_grad():
        for kept, new in zip(running, (mean, variance * (count / (count - 1))), strict=True):
            kept.mul_(1 - _MOMENTUM).add_(new, alpha=_MOMENTUM)
    return y.view_as(x)


def frozen_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, slope: float | None, running: tuple[Tensor, ...]
) -> Tensor:
    """Normalise by the running statistics; see `batch_norm`."""
    mean, variance = running
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    y = torch.addcmul(shift[:, None, None, None], x, scale[:, None, None, None]).to(x.dtype)
    return y if slope is None else F.leaky_relu(y, slope)


def _plain(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, slope: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result for ``x`` [K, M, C], and mean and biased variance [K, C]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, 1, correction=0)
    scale = (variance + eps).rsqrt()
    y = (wide - mean[:, None]) * (scale if weight is None else scale * weight)[:, None]
    y = y if bias is None else y + bias[:, None]
    y = y if slope is None else F.leaky_relu(y, slope)
    return y.to(x.dtype), mean.detach(), variance.detach()


class _EagerNorm(torch.autograd.Function):
    """`_plain` with few passes over memory. A compiler finds them; torch's own reduction for a variance is slow."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, slope: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, count = torch.promote_types(x.dtype, torch.float32), x.shape[1]
        mean = x.sum(1, dtype=dtype) / count
        centred = x - mean[:, None]
        y = centred * centred
        variance = y.sum(1) / count
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        if bias is None:
            torch.mul(centred, scale[:, None], out=y)
        else:
            torch.addcmul(bias[:, None].to(dtype), centred, scale[:, None].to(dtype), out=y)
        if slope is not None:
            F.leaky_relu_(y, slope)
        y = y.to(x.dtype)
        ctx.slope, ctx.affine = slope, (weight is not None, bias is not None)
        ctx.save_for_backward(centred.to(x.dtype), None if slope is None else y, inverse, scale)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        centred, y, inverse, scale = ctx.saved_tensors
        gradient, count = gradients[0], centred.shape[1]
        if ctx.slope is not None:  # the result has the sign of what it was made from
            gradient = torch.ops.aten.leaky_relu_backward(gradient, y, ctx.slope, True)
        wide, centred = gradient.to(inverse.dtype), centred.to(inverse.dtype)
        total = wide.sum(1)
        product = wide * centred
        aligned = product.sum(1) * inverse
        # scale (g - mean(g) - normalised mean(g normalised)), in two passes
        shift, slant = -scale * total / count, -scale * inverse * aligned / count
        torch.addcmul(shift[:, None], centred, slant[:, None], out=product).addcmul_(wide, scale[:, None])
        has_weight, has_bias = ctx.affine
        return product.to(gradients[0].dtype), aligned if has_weight else None, total if has_bias else None, None, None
