"""Measure a student: accuracy, calibration, and fidelity to its teacher, each over all workers' shares.

Units: accuracy, agreement and expected calibration error in per cent; kl in nats, KL(teacher || student).
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.data.datasets import Images
from raykd.data.stored import StoredImages
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.models.logits import compute_logits
from raykd.results import Breakdown, ConfidenceBin, Confusion, Figures
from raykd.results.breakdown import MOST_CONFUSIONS
from raykd.spec import DataSpec

_BATCH = 500
_BINS = 15  # of the calibration error, as in Guo et al. 2017
_CONFUSED_CLASSES = 1000  # with more, pairs of classes take too much memory


def score(logits: Tensor, labels: Tensor | None, teacher_logits: Tensor | None, world: World) -> dict[str, float]:
    """Score this worker's share of the rows (N, C) and return the figures over all shares."""
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    sums = {"rows": torch.tensor(float(len(logits)))}
    if labels is not None:
        correct = predicted == labels
        sums["accuracy/top1"] = correct.sum()
        if logits.shape[1] > 5:
            sums["accuracy/top5"] = (logits.topk(5, 1).indices == labels[:, None]).sum()
        bins = _bins_of(confidence)
        gaps = torch.zeros(_BINS, device=logits.device)
        gaps.index_add_(0, bins, correct.float() - confidence)
    if teacher_logits is not None:
        teacher = teacher_logits.log_softmax(1)
        sums["agreement"] = (predicted == teacher_logits.argmax(1)).sum()
        sums["kl"] = F.kl_div(logits.log_softmax(1), teacher, reduction="sum", log_target=True)
    flat = torch.stack([value.to(world.device, torch.float64) for value in sums.values()])
    totals = dict(zip(sums, world.sum(flat).tolist(), strict=True))
    rows = totals.pop("rows")
    result = {name: value / rows for name, value in totals.items()}
    if labels is not None:
        result["ece"] = world.sum(gaps.double()).abs().sum().item() / rows
    return {name: value if name == "kl" else 100 * value for name, value in result.items()}


def break_down(logits: Tensor, labels: Tensor, world: World) -> Breakdown:
    """Return how this worker's share of the rows (N, C), with all others', is answered by class and by confidence."""
    confidence, predicted = logits.softmax(1).max(1)
    correct, classes = predicted == labels, logits.shape[1]
    bins = _bins_of(confidence)
    parts = {
        "images": labels.bincount(minlength=classes),
        "correct": labels[correct].bincount(minlength=classes),
        "bin_images": bins.bincount(minlength=_BINS),
        "bin_confidence": torch.zeros(_BINS, device=logits.device).index_add_(0, bins, confidence.nan_to_num()),
        "bin_correct": bins[correct].bincount(minlength=_BINS),
    }
    if classes <= _CONFUSED_CLASSES:
        wrong = labels[~correct] * classes + predicted[~correct]
        parts["confusions"] = wrong.bincount(minlength=classes**2)
    flat = world.sum(torch.cat([part.to(world.device, torch.float64) for part in parts.values()]))
    sums = dict(zip(parts, flat.split([len(part) for part in parts.values()]), strict=True))
    pairs = []
    if "confusions" in sums:
        counts = sums["confusions"]
        for index in counts.argsort(descending=True, stable=True)[:MOST_CONFUSIONS].tolist():
            pairs.append(Confusion(index // classes, index % classes, int(counts[index])))
    filled = sums["bin_images"].clamp(min=1)
    confidences, accuracies = (100 * sums[name] / filled for name in ("bin_confidence", "bin_correct"))
    columns = [column.tolist() for column in (sums["bin_images"], confidences, accuracies)]
    return Breakdown(
        tuple(map(int, sums["images"].tolist())),
        tuple(map(int, sums["correct"].tolist())),
        tuple(pair for pair in pairs if pair.images),
        tuple(ConfidenceBin(int(images), *rest) for images, *rest in zip(*columns, strict=True)),
    )


def _bins_of(confidence: Tensor) -> Tensor:
    return (confidence.nan_to_num() * _BINS).long().clamp(max=_BINS - 1)  # NaN is no index


class Scorer(Protocol):
    """What tells how good a student is."""

    def score(self, student: nn.Module) -> dict[str, float]:
        """Return figures by name; every worker must call it."""


class Evaluator:
    """Scores any student on the test split; the teacher's logits there are computed once.

    Others may be scored with it, ``extra_evaluators``: the figures of one called ``holdout`` begin with ``holdout/``.

    Attributes:
        images: the whole split; None without one.
        labels: of this worker's share, int64 (N,); None without a split or its labels.
        teacher_logits: of this worker's share (N, C); None without a split or a teacher.
    """

    def __init__(
        self,
        images: Images | StoredImages | None,
        spec: DataSpec,
        world: World,
        teacher: nn.Module | None,
        extra_evaluators: "Mapping[str, Scorer | None] | None" = None,
        *,
        labelled: bool = True,
    ) -> None:
        """Keep this worker's share and compute the teacher's logits; without images there is nothing to score."""
        self.images, self._spec, self._world = images, spec, world
        self.extra_evaluators = {
            name: evaluator for name, evaluator in (extra_evaluators or {}).items() if evaluator is not None
        }
        self.labels: Tensor | None = None
        self.teacher_logits: Tensor | None = None
        if images is None:
            return
        if labelled:
            self.labels = images.labels[world.rank :: world.size].to(world.device)
        if teacher is not None:
            self.teacher_logits = self._logits(teacher)

    def score(self, student: nn.Module) -> dict[str, float]:
        """Return the figures of a student over the whole split; none where there is no split."""
        return self._figures(student, self._logits(student))

    def score_in_detail(self, student: nn.Module) -> tuple[dict[str, float], Breakdown | None]:
        """Return the figures of ``score``, and how the split is answered; None without a split or its labels."""
        logits = self._logits(student)
        return self._figures(student, logits), self._break_down(logits)

    def _figures(self, student: nn.Module, logits: Tensor | None) -> dict[str, float]:
        figures = {
            f"{prefix}/{name}": value
            for prefix, evaluator in self.extra_evaluators.items()
            for name, value in evaluator.score(student).items()
        }
        if logits is None:
            return figures
        return {**score(logits, self.labels, self.teacher_logits, self._world), **figures}

    def score_teacher(self) -> Figures | None:
        """Return the teacher's own figures; None without a teacher or a test split."""
        if self.teacher_logits is None:
            return None
        return Figures.from_dict(score(self.teacher_logits, self.labels, None, self._world))

    def break_down_teacher(self) -> Breakdown | None:
        """Return how the teacher answers the split; None without a teacher, a split or its labels."""
        return self._break_down(self.teacher_logits)

    def _break_down(self, logits: Tensor | None) -> Breakdown | None:
        return None if logits is None or self.labels is None else break_down(logits, self.labels, self._world)

    def _logits(self, network: nn.Module) -> Tensor | None:
        if self.images is None:
            return None
        batches = evaluation_batches(self.images, self._spec, self._world, _BATCH)
        return compute_logits(network, (batch.images for batch in batches), self._world)
