"""Losses of the games between generator, student and patch discriminator.

MosaicKD (Fang et al., NeurIPS 2021, arXiv 2110.15094), CMI (Fang et al., IJCAI 2021, arXiv 2105.08584) and GapSSG
(Li et al., TPAMI 2024). Shapes: B batch, C classes, H W patches.
"""

import torch.nn.functional as F
from torch import Tensor

from raykd.losses.distillation import kd_divergence


def disagreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return -KL(teacher || student) in nats, batch mean: low where the student errs most.

    The generator minimises it (the adversary of MosaicKD's distributionally robust objective);
    the gradient flows into both arguments, since both depend on the generated image.

    Args:
        student_logits: [B, C].
        teacher_logits: [B, C].
    """
    return -kd_divergence(student_logits, teacher_logits)


def masked_disagreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return -(1/B) sum_i [argmax s_i = argmax t_i] KL(teacher_i || student_i) in nats (CMI and its successors).

    Only images that both answer alike count, though all B divide: where the student errs already it is left alone.

    Args:
        student_logits: s, [B, C].
        teacher_logits: t, [B, C].
    """
    agree = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    divergence = F.kl_div(
        student_logits.log_softmax(dim=1), teacher_logits.log_softmax(dim=1), reduction="none", log_target=True
    ).sum(dim=1)
    return -(divergence * agree).mean()


def gap(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return (1 - e^-c) [CE((t - s) / 2, y) + CE(t + s, y) / 5] / 2 with c = mean_i max_j |p^S_ij - p^T_ij| (GapSSG).

    The gap between teacher and student is made to show the class; c, which carries no gradient, says how large it is.

    Args:
        student_logits: s, [B, C].
        teacher_logits: t, [B, C].
        labels: y, int64 [B].
    """
    distance = (student_logits.softmax(dim=1) - teacher_logits.softmax(dim=1)).abs().amax(dim=1).mean().detach()
    difference = F.cross_entropy((teacher_logits - student_logits) / 2, labels)
    total = F.cross_entropy(teacher_logits + student_logits, labels)
    return (1 - (-distance).exp()) * (difference + 0.2 * total) / 2


def patch_real(patch_logits: Tensor) -> Tensor:
    """Return the binary cross-entropy of calling every patch real, in nats.

    Summed over the patches of an image, averaged over images. The generator minimises it on its
    own images; the discriminator minimises ``(patch_real(real) + patch_fake(fake)) / 2``.

    Args:
        patch_logits: [B, 1, H, W], positive where a patch looks real.
    """
    return -F.logsigmoid(patch_logits).flatten(1).sum(1).mean()


def patch_fake(patch_logits: Tensor) -> Tensor:
    """Return the binary cross-entropy of calling every patch synthetic, as in `patch_real`."""
    return patch_real(-patch_logits)
