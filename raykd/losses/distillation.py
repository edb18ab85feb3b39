"""Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv 1503.02531), and what else a student learns by.

Shapes: B batch, C classes, H W feature map.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) in nats: the transfer loss.

    Summed over classes, averaged over the batch; the factor T^2 keeps the size of the gradient
    independent of the temperature (section 2 of the paper). The gradient flows into both
    arguments, so a caller who trains the student alone detaches ``teacher_logits``.

    Args:
        student_logits: [B, C].
        teacher_logits: [B, C].
        temperature: T, positive.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def divergences(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return `kd_divergence` of each row by itself, [B].

    Args:
        student_logits: [B, C].
        teacher_logits: [B, C].
        temperature: T, positive.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def logit_distances(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return |t - s| of each row, the mean over its C logits, [B] (DFAD, Fang et al. 2019, arXiv 1912.11006).

    Args:
        student_logits: [B, C].
        teacher_logits: [B, C].
    """
    return (teacher_logits - student_logits).abs().mean(dim=1)


def attention_transfer(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Return sum_l mean |a(S_l) - a(T_l)|^2 over stages l, the mean over images and pixels.

    Attention a(F) is the mean over channels of F^2, as a vector of unit length per image (Zagoruyko and Komodakis,
    ICLR 2017, arXiv 1612.03928).

    Args:
        student_maps: per stage [B, channels, H, W].
        teacher_maps: as ``student_maps``, with channels of its own.
    """
    distances = [
        (_attention(student) - _attention(teacher)).square().mean()
        for student, teacher in zip(student_maps, teacher_maps, strict=True)
    ]
    return torch.stack(distances).sum()


def _attention(maps: Tensor) -> Tensor:
    return F.normalize(maps.square().mean(dim=1).flatten(1), dim=1)


def self_paced_weight(loss: Tensor, pace: float) -> Tensor:
    """Return (1 + e^-pace) / (1 + e^(loss - pace)) without gradient: 1 for no loss, half of that or less beyond pace.

    The logarithmic regulariser of CuDFKD (Li et al. 2022, arXiv 2208.13648).

    Args:
        loss: any shape, 0 or more.
        pace: the loss at which learning is put off, 0 or more; it grows as the student does.
    """
    return (1 + math.exp(-pace)) * (pace - loss.detach()).sigmoid()
