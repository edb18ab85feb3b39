"""Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

Shapes: B batch, C classes.
"""

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
