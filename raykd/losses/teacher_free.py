"""Teacher-free distillation (Yuan et al., CVPR 2020, arXiv 1909.11723).

Shapes: B batch, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def label_smoothing(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy to (1 - s) onehot(label) + s / C, in nats, batch mean.

    It is (1 - s) CE + s KL(uniform || p) + s ln C. The authors' code spreads s over the other
    C - 1 classes instead: its s is ours times (C - 1) / C.

    Args:
        logits: [B, C].
        labels: [B], class indices.
        smoothing: s in [0, 1].
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def virtual_teacher(labels: Tensor, num_classes: int, correct_prob: float) -> Tensor:
    """Return the hand-made teacher of Tf-KD_reg: always right, with one confidence.

    Its logits are its logarithm, so the paper's regulariser T^2 KL(p_T^d || p_T) reads
    ``kd_divergence(student_logits, virtual_teacher(...).log(), T)``. The authors' code softens
    the *probabilities*, ``kd_divergence(student_logits, virtual_teacher(...) / T)``, which at
    T = 20 is uniform to three digits.

    Args:
        labels: [B], class indices.
        num_classes: C.
        correct_prob: probability a of the label, the others share 1 - a; 1 / C < a < 1.

    Returns:
        Probabilities [B, C], of the default floating type.
    """
    others = (1.0 - correct_prob) / (num_classes - 1)
    target = torch.full((labels.shape[0], num_classes), others, device=labels.device)
    return target.scatter_(1, labels[:, None], correct_prob)
