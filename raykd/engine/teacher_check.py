"""What a teacher's answers say against it: one that answers all images alike, or as by chance, has nothing to teach.

A student agrees with such a teacher soon and often, so that no figure of the student's tells.
"""

import torch
from torch import Tensor

from raykd.distributed.world import World
from raykd.engine.evaluator import Evaluator
from raykd.errors import UsageError

TEACHER = "teacher"
"""Kind of the warning that the teacher's own accuracy gives."""
_ROUNDING = 1e-6  # of the largest logit
_POINTS = 5.0  # per cent above 1.5 times chance, or above chance and 5 more: less is hardly above chance
_ERRORS = 2.0  # standard errors of its accuracy
_OTHERS = 5  # images of other classes, all of which a good teacher of few images hardly misses


def judge_teacher(probes: Tensor, evaluator: Evaluator, world: World) -> list[str]:
    """Return what its answers to the test split say against a teacher, in a line or none; every worker must call it.

    Args:
        probes: its logits of Gaussian images (N, C), the same on all workers.
        evaluator: holds its logits of this worker's share of the test split, and the labels, where there is one.
        world: of the evaluator.

    Raises:
        UsageError: on all workers, if its answers to all these images are alike.
    """
    logits, labels = evaluator.teacher_logits, evaluator.labels
    classes = probes.shape[1]
    others = torch.tensor(float(not _are_alike(probes, probes[0])))
    counts = torch.zeros(2, classes, device=world.device, dtype=torch.float64)
    if logits is not None:
        others = others + (not _are_alike(logits, probes[0]))
        if labels is not None:
            answers = logits.argmax(1)
            counts[0] = answers.bincount(minlength=classes)
            counts[1] = answers[answers == labels].bincount(minlength=classes)
    totals = world.sum(torch.cat([others.to(counts)[None], counts.flatten()]))
    if not totals[0]:
        raise UsageError(
            "the teacher answers every image alike, so nothing can be learned from it: its weights are not those of "
            "a trained network, or its factory loses its input (`raykd inspect` looks at a teacher)"
        )
    answered, right = totals[1:].view(2, classes).cpu()
    return _warnings(answered, right) if answered.sum() else []


def _are_alike(logits: Tensor, answer: Tensor) -> bool:
    """Tell whether all logits (N, C) are one answer's (C), but for rounding."""
    answer = answer.to(logits)
    return bool((logits - answer).abs().max() <= _ROUNDING * answer.abs().max()) if len(logits) else True


def _warnings(answered: Tensor, right: Tensor) -> list[str]:
    """Judge by how many images each class was the answer to, and the right one, both (C,)."""
    rows, classes = answered.sum().item(), len(answered)
    top1 = 100 * right.sum().item() / rows
    advice = (
        "so agreement with it tells nothing; its weights, the order of its classes, or data.mean and data.std may not "
        "be the right ones (`raykd inspect` looks at a teacher)"
    )
    if (answered > 0).sum() == 1 and rows - right.sum().item() >= _OTHERS:
        return [f"{TEACHER}: it names class {answered.argmax()} for every test image (top-1 {top1:.1f} %), {advice}"]
    chance = 100 / classes
    likely = (right.sum().item() + 2) / (rows + 4)  # Agresti and Coull 1998: holds for few images and rates near 0
    bound = 100 * (likely + _ERRORS * (likely * (1 - likely) / (rows + 4)) ** 0.5)
    if bound < chance + min(chance / 2, _POINTS) + _POINTS:
        return [
            f"{TEACHER}: its top-1 on the test split, {top1:.1f} %, is hardly above chance ({chance:.1f} %), {advice}"
        ]
    return []
