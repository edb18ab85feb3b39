"""Watch over a run: stop it where numbers are no longer finite, and tell where they are, but mean nothing.

A generator that makes images of one class pleases its blind figures: a student that always answers that class agrees
with the teacher on all of them.
"""

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raykd.errors import RunFailed

logger = logging.getLogger(__name__)

CLASS_SPREAD = "images/class_spread"
"""Report key: how evenly the teacher's answers to generated images cover the classes, see ``class_spread``."""
WAITING_OTHERS, WAITING_LEAST, LEAST_RANK = "waiting/others", "waiting/least", "waiting/least_rank"
"""Report keys of several workers on CPUs: the share of its time, in per cent, in which the worker that waits least has
waited for others, its rank, and the mean of the others' shares."""
_WAITS = 33.0  # per cent of the others' time; then a worker that waits half as much is a straggler
_COLLAPSED = 50.0  # per cent of CLASS_SPREAD; healthy runs end above 75, and one of 20 had 33 per cent right
_EXPLODED = 1e6  # of a loss


def parameter_norms(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """Return the l2 norm of each network's parameters: not finite as soon as one parameter is not."""
    return {
        f"parameters/{name}": torch.nn.utils.get_total_norm(network.parameters()).item()
        for name, network in networks.items()
    }


def check_finite(metrics: Mapping[str, float], step: int) -> None:
    """Refuse non-finite metrics; called before a checkpoint is written, so the last good one stays.

    Raises:
        RunFailed: naming the quantities.
    """
    names = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if names:
        raise RunFailed(
            f"{', '.join(names)} not finite at step {step}; no checkpoint was written for it. "
            "Lower the learning rate (student_optim.lr, method.generator_optim.lr) or a loss weight"
        )


def class_spread(effective_classes: float, num_classes: int) -> float:
    """Return 100 (n - 1) / (K - 1) of n effective classes among K: 0 where there is one, 100 where all are alike."""
    return 100 * (effective_classes - 1) / (num_classes - 1)


def effective_classes(labels: Tensor, num_classes: int) -> float:
    """Return exp of the entropy of class labels, int64 (N,): K where all classes are equally frequent, 1 for one."""
    share = labels.bincount(minlength=num_classes).double() / len(labels)
    return float((-(share * share.clamp(min=1e-12).log()).sum()).exp())


def find_warnings(row: Mapping[str, float]) -> list[str]:
    """Return what a report's figures say against the run, each with its likely causes."""
    found = []
    spread = row.get(CLASS_SPREAD)
    if spread is not None and spread < _COLLAPSED:
        found.append(
            f"collapse: to the teacher the generated images are of few classes (spread {spread:.0f} of 100), so blind "
            "agreement tells nothing; a weight on balanced classes (method.entropy_weight), a larger batch or a lower "
            "generator rate (method.generator_optim.lr) may help, or data.mean and data.std are not the teacher's"
        )
    exploded = sorted(name for name, value in row.items() if name.startswith("loss/") and abs(value) > _EXPLODED)
    if exploded:
        found.append(f"explosion: {', '.join(exploded)} above {_EXPLODED:g}; lower a learning rate or that weight")
    if straggler := find_straggler(row):
        found.append(f"straggler: {straggler}")
    return found


def find_straggler(row: Mapping[str, float]) -> str | None:
    """Return what a report's figures say of a worker for which the others wait; None if they do for none."""
    others, least = row.get(WAITING_OTHERS, 0.0), row.get(WAITING_LEAST, 0.0)
    if others < _WAITS or least > others / 2:
        return None
    return (
        f"worker {row[LEAST_RANK]:.0f} computes {100 - least:.0f} % of the time and the others {100 - others:.0f} %, "
        "who wait for it: its machine is slower or busy, or its share of the work is larger"
    )


class Watch:
    """Logs what two reports in a row say against a run, once; ``warnings`` are those of the latest report."""

    def __init__(self) -> None:
        """Have seen no report yet."""
        self.warnings: list[str] = []
        self._told: set[str] = set()

    def look(self, row: Mapping[str, float]) -> None:
        """Take the figures of a report."""
        before = {_kind(text) for text in self.warnings}
        self.warnings = find_warnings(row)
        for text in self.warnings:
            if _kind(text) in before - self._told:
                self._told.add(_kind(text))
                logger.warning("step %.0f: %s", row.get("step", 0), text)


def _kind(warning: str) -> str:
    return warning.partition(":")[0]
