"""Losses that pull generated images towards what the teacher was trained on.

Terms of DAFL (Chen et al., ICCV 2019, arXiv 1904.01186), LS-GDFD (Luo et al., arXiv 2012.05578)
and DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795), with alternatives to two of DAFL's.
Shapes: B batch, C classes or channels, F features, H W image. In the formulas p_i is the softmax
of row i, pbar the mean of p_i over the batch and H the Shannon entropy in nats.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Average = Callable[[Tensor], Tensor]
"""Maps this worker's mean to the mean over all workers, with gradients (an all-reduce)."""
Reduction = Literal["mean", "none"]


def identity(local: Tensor) -> Tensor:
    """Return the argument: the average over workers when there is one worker."""
    return local


def onehot(teacher_logits: Tensor) -> Tensor:
    """Return mean_i -ln max_c p_ic, the cross-entropy to the teacher's own argmax (DAFL L_oh).

    Args:
        teacher_logits: [B, C].
    """
    return F.cross_entropy(teacher_logits, teacher_logits.argmax(dim=1))


def onehot_distance(teacher_logits: Tensor) -> Tensor:
    """Return mean_i |p_i - onehot(argmax p_i)|_1 = mean_i 2 (1 - max_c p_ic), in [0, 2).

    Bounded, so single images cannot dominate. Its gradient vanishes near uniform predictions as
    it does near one-hot ones; expect to weight it 5 to 10 times higher than `onehot`.

    Args:
        teacher_logits: [B, C].
    """
    return 2.0 * (1.0 - teacher_logits.softmax(dim=1).max(dim=1).values).mean()


def gini(teacher_logits: Tensor) -> Tensor:
    """Return mean_i (1 - sum_c p_ic^2), in [0, 1 - 1/C].

    Args:
        teacher_logits: [B, C].
    """
    return (1.0 - teacher_logits.softmax(dim=1).square().sum(dim=1)).mean()


def lq(teacher_logits: Tensor, q: float = 0.5, eps: float = 1e-6) -> Tensor:
    """Return mean_i sum_c (p_ic + eps)^q, a sparsity quasi-norm for 0 < q < 1.

    ``|p|_1`` itself is 1 for every prediction, hence q below one. The smallest value is
    (1 + eps)^q + (C - 1) eps^q, at one-hot predictions; eps bounds the slope at p = 0.

    Args:
        teacher_logits: [B, C].
        q: exponent.
        eps: probability added before the power.
    """
    return (teacher_logits.softmax(dim=1) + eps).pow(q).sum(dim=1).mean()


def shannon(teacher_logits: Tensor) -> Tensor:
    """Return mean_i H(p_i), in [0, ln C].

    Args:
        teacher_logits: [B, C].
    """
    log_p = F.log_softmax(teacher_logits, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1).mean()


def information_entropy(teacher_logits: Tensor, average: Average = identity) -> Tensor:
    """Return -H(pbar) = sum_c pbar_c ln pbar_c, in [-ln C, 0] (DAFL L_ie).

    Lowest when the predicted classes are balanced over the *global* batch. The authors' code uses
    log10, the paper divides by C; weights convert as w_ln = w_log10 / ln 10 = w_paper / C.

    Args:
        teacher_logits: this worker's rows [B, C].
        average: mean over workers of this worker's mean prediction [C].
    """
    mean = average(teacher_logits.softmax(dim=1).mean(dim=0))
    # A class that no image reaches has mean 0, where 0 ln 0 is 0 but would give NaN.
    return (mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()


def per_sample_entropy(teacher_logits: Tensor) -> Tensor:
    """Return -mean_i H(p_i), in [-ln C, 0]: minimising it makes every single image ambiguous.

    It couples no two images, so it neither balances the classes nor prevents a collapse, and it
    works against `onehot`. `mutual_information` is the sound way to use per-sample entropies.

    Args:
        teacher_logits: [B, C].
    """
    return -shannon(teacher_logits)


def mutual_information(teacher_logits: Tensor, average: Average = identity) -> Tensor:
    """Return mean_i H(p_i) - H(pbar) = -MI(image; class), in [-ln C, 0].

    Args:
        teacher_logits: this worker's rows [B, C].
        average: as in `information_entropy`.
    """
    return shannon(teacher_logits) + information_entropy(teacher_logits, average)


def activation(features: Tensor, per_sample_sum: bool = False) -> Tensor:
    """Return -mean |f| over all entries (DAFL L_a as its authors coded it).

    Args:
        features: penultimate features of the teacher [B, F].
        per_sample_sum: sum over the features of an image instead, as in the paper (F times more).
    """
    magnitude = features.abs()
    if per_sample_sum:
        magnitude = magnitude.flatten(1).sum(dim=1)
    return -magnitude.mean()


def bn_statistics(batch: Sequence[tuple[Tensor, Tensor]], running: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return sum_l |mean_l - mean_l'|_2 + |var_l - var_l'|_2 over BatchNorm layers l.

    The norms are not squared (DeepInversion R_feature, LS-GDFD L_mom). The batch statistics are
    those of one worker's images, so the value depends on the size of a worker's batch.

    Args:
        batch: per layer the (mean, biased variance) of its input over the images, each [C]; or
            [K, C] with one row per class, whose K values are averaged.
        running: per layer the stored (mean, variance), broadcast against ``batch``.
    """
    distances = [
        torch.linalg.vector_norm(seen - stored, dim=-1).mean()
        for layer, reference in zip(batch, running, strict=True)
        for seen, stored in zip(layer, reference, strict=True)
    ]
    return torch.stack(distances).sum()


def bn_relative(
    batch: Sequence[tuple[Tensor, Tensor]], running: Sequence[tuple[Tensor, Tensor]], eps: float = 1e-5
) -> Tensor:
    """Return the mean over BatchNorm layers l of |mean_l - mean_l'|_2 / |std_l'|_2 + |var_l - var_l'|_2 / |var_l'|_2.

    Every distance is measured by the size of what it is compared with, so the number of layers, their channels and the
    scale of their inputs do not matter, as they do to `bn_statistics`. Ours.

    Args:
        batch: as `bn_statistics`.
        running: as `bn_statistics`.
        eps: the least size, of a layer whose channels are all constant.
    """
    distances = []
    for (mean, var), (stored_mean, stored_var) in zip(batch, running, strict=True):
        of_mean = torch.linalg.vector_norm(mean - stored_mean, dim=-1)
        of_var = torch.linalg.vector_norm(var - stored_var, dim=-1)
        scale = (torch.linalg.vector_norm(size, dim=-1).clamp(min=eps) for size in (stored_var.sqrt(), stored_var))
        distances.append((of_mean / next(scale) + of_var / next(scale)).mean())
    return torch.stack(distances).mean()


def bn_divergence(
    batch: Sequence[tuple[Tensor, Tensor]], running: Sequence[tuple[Tensor, Tensor]], eps: float = 1e-5
) -> Tensor:
    """Return sum_l sum_c KL(N(mean, var) || N(mean', var')), batch against stored, over BatchNorm layers l.

    The other distance that LS-GDFD describes, between Gaussians that are independent over channels c:

        KL = 1/2 [ln(var' / var) + (var + (mean - mean')^2) / var' - 1]

    Unlike `bn_statistics` it weighs a channel by its own spread, and grows without bound as a variance vanishes.

    Args:
        batch: per layer the (mean, biased variance) of its input over the images, each [C]; or
            [K, C] with one row per class, whose K values are averaged.
        running: per layer the stored (mean, variance), broadcast against ``batch``.
        eps: added to every variance, as BatchNorm does: a channel that is constant has none.
    """
    divergences = []
    for (mean, var), (stored_mean, stored_var) in zip(batch, running, strict=True):
        var, stored_var = var + eps, stored_var + eps
        ratio = (var + (mean - stored_mean).square()) / stored_var
        divergences.append((stored_var.log() - var.log() + ratio - 1).sum(dim=-1).mean() / 2)
    return torch.stack(divergences).sum()


def total_variation(images: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return the l2 norms of the differences to four neighbours, summed, averaged over images.

    The neighbours are the right, lower and two lower diagonal ones, as in DeepInversion, whose
    norms run over the whole batch tensor: its weight is ours divided by about sqrt(B).

    Args:
        images: [B, C, H, W].
        reduction: none: that of each image, [B].
    """
    differences = (
        images[:, :, :, 1:] - images[:, :, :, :-1],
        images[:, :, 1:, :] - images[:, :, :-1, :],
        images[:, :, 1:, 1:] - images[:, :, :-1, :-1],
        images[:, :, 1:, :-1] - images[:, :, :-1, 1:],
    )
    norms = [torch.linalg.vector_norm(difference.flatten(1), dim=1) for difference in differences]
    each = torch.stack(norms).sum(dim=0)
    return each.mean() if reduction == "mean" else each


def image_l2(images: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return the l2 norm of an image, averaged over images.

    Args:
        images: [B, C, H, W].
        reduction: none: that of each image, [B].
    """
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return norms.mean() if reduction == "mean" else norms
