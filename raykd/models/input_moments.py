"""What a network has been shown: mean and standard deviation of its input, as its first BatchNorm remembers them.

Where BatchNorm follows the first convolution, with weights W and bias b, its running statistics (m, v) are those of
y_o = b_o + sum_ck W_ock x_ck over the images it was trained on. So

    m_o = b_o + sum_c A_oc mu_c                              A_oc: mean over an image of y_o where channel c is 1
    v_o = u_o + sum_cc' s_c s_c' r_cc' sum_kk' W_ock W_oc'k' q^|k - k'|

give the means mu_c and the standard deviations s_c of the input's channels by least squares: the means exactly, the
deviations for images whose neighbouring pixels correlate by q and whose channels by r, as those of photos and drawings
do. u_o is what the border of zeros adds, known once mu is.

Shapes: C channels of the input, O of the convolution, k places of its kernel.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.models.teacher import Teacher

_NEIGHBOURS, _CHANNELS = 0.93, 0.85
"""Correlations q and r. Measured on CIFAR-10's test images."""
_UNSETTLED = 0.15  # of a running mean: the share of what it began with, above which it says little
_SEED = 0
_ROUNDS = 8
_RIDGE = 1e-2  # of the largest singular value's square: channels that the filters do not tell apart are alike


class InputMoments(NamedTuple):
    """Mean and standard deviation of each channel of a network's input, as it is shown: normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@torch.no_grad()
def input_moments(teacher: Teacher) -> InputMoments | None:
    """Return what a teacher's first BatchNorm tells of its training images; None where it is not that near the input.

    It must see the images themselves, or what a convolution without groups makes of them, and have seen some batches.
    """
    found = _first_layers(teacher)
    if found is None:
        return None
    convolution, norm = found
    momentum, batches = norm.momentum, norm.num_batches_tracked
    if momentum is not None and batches is not None and batches > 0 and (1 - momentum) ** int(batches) > _UNSETTLED:
        return None
    mean, variance = (norm.get_buffer(name).double().cpu() for name in ("running_mean", "running_var"))
    untrained = bool((mean == 0).all() and (variance == 1).all())
    if untrained or not (mean.isfinite().all() and variance.isfinite().all()):
        return None
    if convolution is None:
        return InputMoments(tuple(mean.tolist()), tuple(variance.sqrt().tolist()))
    maps = _responses(convolution, teacher.image_shape)
    bias = 0 if convolution.bias is None else convolution.bias.double().cpu()
    trust = 1 / variance.clamp(min=1e-8).sqrt()
    mu = _solve(maps.mean((2, 3)), mean - bias, trust)
    borders = torch.einsum("ochw,c->ohw", maps, mu).flatten(1).var(1, correction=0)
    shapes = _covariances(convolution)
    s = _deviations(shapes, (variance - borders).clamp(min=0), 1 / variance.clamp(min=1e-8))
    return InputMoments(tuple(mu.tolist()), tuple(s.tolist()))


def _first_layers(teacher: Teacher) -> tuple[nn.Conv2d | None, _BatchNorm] | None:
    """Return the convolution of the images and the BatchNorm of its result, or None and that of the images."""
    like = next(teacher.parameters())
    images = torch.randn(2, *teacher.image_shape, generator=torch.Generator().manual_seed(_SEED)).to(like)
    layers: list[tuple[nn.Module, Tensor, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda layer, args, result: layers.append((layer, args[0].clone(), result.clone())) if args else None
        )
        for module in teacher.network.modules()
        if isinstance(module, nn.Conv2d | _BatchNorm)
    ]
    try:
        teacher(images)
    finally:
        for handle in handles:
            handle.remove()
    shown = [(layer, output) for layer, inputs, output in layers if torch.equal(inputs, images)]
    if not shown:
        return None
    first, output = shown[0]
    if isinstance(first, _BatchNorm):
        return (None, first) if first.running_mean is not None else None
    assert isinstance(first, nn.Conv2d), "the other kind that was asked for"
    follows = [layer for layer, inputs, _ in layers if isinstance(layer, _BatchNorm) and torch.equal(inputs, output)]
    if not follows or follows[0].running_mean is None or first.groups != 1 or first.padding_mode != "zeros":
        return None
    return first, follows[0]


def _responses(convolution: nn.Conv2d, shape: tuple[int, int, int]) -> Tensor:
    """Return what each channel of the input, being 1 everywhere, adds to the result: (O, C, H', W'), float64."""
    channels, height, width = shape
    basis = torch.eye(channels).view(channels, channels, 1, 1).expand(-1, -1, height, width)
    basis = torch.cat([basis, torch.zeros(1, *shape)]).to(convolution.weight)
    results = convolution(basis).double().cpu()
    responses: Tensor = (results[:-1] - results[-1:]).transpose(0, 1)
    return responses


def _covariances(convolution: nn.Conv2d) -> Tensor:
    """Return how the variance of each output comes of the channels' deviations: (O, C, C), float64."""
    weight = convolution.weight.double().cpu()
    rows, columns = (torch.arange(n) * step for n, step in zip(weight.shape[2:], convolution.dilation, strict=True))
    places = torch.cartesian_prod(rows, columns).double().view(-1, 2)
    spatial = _NEIGHBOURS ** torch.cdist(places, places)
    flat = weight.flatten(2)
    channels = flat.shape[1]
    across = torch.full((channels, channels), _CHANNELS, dtype=torch.float64).fill_diagonal_(1)
    return torch.einsum("ock,kl,odl->ocd", flat, spatial, flat) * across


def _solve(matrix: Tensor, target: Tensor, trust: Tensor) -> Tensor:
    """Return the least-squares solution of matrix (O, C) x = target (O,), each row weighed by its ``trust``.

    Where the rows do not tell columns apart, these get equal values.
    """
    matrix, target = matrix * trust[:, None], target * trust
    common = matrix.sum(1)
    level = (common @ target) / (common @ common).clamp(min=1e-12)
    gram = matrix.mT @ matrix
    ridge = _RIDGE * torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12) * torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = level + torch.linalg.solve(gram + ridge, matrix.mT @ (target - level * common))
    return solution


def _deviations(shapes: Tensor, variance: Tensor, trust: Tensor) -> Tensor:
    """Return s (C,) > 0 of least squares for variance_o = s' shapes_o s, by Gauss-Newton from one value for all."""
    whole = shapes.sum((1, 2)) * trust
    level = ((whole @ (variance * trust)) / (whole @ whole).clamp(min=1e-12)).clamp(min=1e-12).sqrt()
    s = level.expand(shapes.shape[1]).clone()
    for _ in range(_ROUNDS):
        slope = 2 * torch.einsum("ocd,d->oc", shapes, s)
        target = variance - torch.einsum("c,ocd,d->o", s, shapes, s) + slope @ s
        s = _solve(slope, target, trust).clamp(min=0.1 * level, max=10 * level)
    return s
