"""Scores against a slow reference, and against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import Tensor, nn

from raykd.data.datasets import Images
from raykd.distributed.world import World
from raykd.engine.evaluator import Evaluator, break_down, score
from raykd.results import Breakdown
from raykd.results.breakdown import MOST_CONFUSIONS
from raykd.spec import DataSpec

ALONE = World.alone()


def softmax(logits: Tensor) -> np.ndarray:
    exponentials = np.exp(logits.double().numpy())
    return exponentials / exponentials.sum(1, keepdims=True)  # type: ignore[no-any-return]


def expected_calibration_error(p: np.ndarray, labels: np.ndarray) -> float:
    confidence, hit = p.max(1), p.argmax(1) == labels
    total = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return 100 * float(total)


def made(rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    teacher = logits + torch.randn(rows, classes, generator=generator)
    return logits, torch.randint(0, classes, (rows,), generator=generator), teacher


@pytest.mark.parametrize(("rows", "classes"), [(200, 10), (37, 7), (50, 100)])
def test_every_figure_is_that_of_the_reference(rows: int, classes: int) -> None:
    logits, labels, teacher = made(rows, classes, seed=rows)
    p, q, y = softmax(logits), softmax(teacher), labels.numpy()
    expected = {
        "accuracy/top1": 100 * accuracy_score(y, p.argmax(1)),
        "accuracy/top5": 100 * top_k_accuracy_score(y, p, k=5, labels=range(classes)),
        "agreement": 100 * accuracy_score(q.argmax(1), p.argmax(1)),
        "kl": (q * np.log(q / p)).sum(1).mean(),
        "ece": expected_calibration_error(p, y),
    }
    assert score(logits, labels, teacher, ALONE) == pytest.approx(expected, rel=1e-4)


def test_figures_worked_out_by_hand() -> None:
    """Two classes at 3:1 odds: four images, the third is wrong, the fourth unlike the teacher's."""
    odds = math.log(3)
    logits = torch.tensor([[odds, 0.0], [odds, 0.0], [odds, 0.0], [0.0, odds]])
    labels = torch.tensor([0, 0, 1, 1])
    teacher = torch.tensor([[odds, 0.0], [odds, 0.0], [odds, 0.0], [odds, 0.0]])
    figures = score(logits, labels, teacher, ALONE)
    assert figures["accuracy/top1"] == 75
    assert figures["ece"] == pytest.approx(0, abs=1e-4)  # right in 3 of 4, and 75 % sure
    assert figures["agreement"] == 75
    assert figures["kl"] == pytest.approx((0.75 - 0.25) * odds / 4)
    assert "accuracy/top5" not in figures  # of two classes it is always 100


def test_ece_of_the_overconfident() -> None:
    logits = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert score(logits, torch.tensor([0, 1]), None, ALONE)["ece"] == pytest.approx(50)


def test_only_what_can_be_known_is_told() -> None:
    logits, labels, teacher = made(20, 10, seed=0)
    assert score(logits, None, teacher, ALONE).keys() == {"agreement", "kl"}
    assert score(logits, labels, None, ALONE).keys() == {"accuracy/top1", "accuracy/top5", "ece"}
    assert score(logits, None, logits, ALONE) == pytest.approx({"agreement": 100, "kl": 0})


def test_non_finite_logits_give_non_finite_figures_and_not_a_crash() -> None:
    logits, labels, teacher = made(20, 10, seed=0)
    figures = score(logits * math.nan, labels, teacher, ALONE)
    assert math.isnan(figures["kl"])
    assert math.isnan(figures["ece"])


class Recorder(nn.Module):
    """Answers with the pixel sums; remembers whether it was training."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        return images.flatten(1)[:, :3]


def test_the_exam_scores_the_whole_split_normalised() -> None:
    spec = DataSpec("made", 3, 1, 2, (0.5,), (0.25,))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1201, 1, 2, 2), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (1201,), generator=generator)
    network = Recorder()
    evaluator = Evaluator(Images(pixels, labels), spec, ALONE, network)
    logits = ((pixels.double() / 255 - 0.5) / 0.25).flatten(1)[:, :3].float()
    expected = score(logits, labels, logits, ALONE)
    assert evaluator.score(network) == pytest.approx(expected, abs=1e-3)
    teacher = evaluator.score_teacher()
    assert teacher is not None
    own = {k: v for k, v in expected.items() if k in ("accuracy/top1", "ece")}
    assert teacher.to_dict() == pytest.approx(own, abs=1e-3)
    assert Evaluator(Images(pixels, labels), spec, ALONE, None).score_teacher() is None


def test_answers_by_class_and_by_confidence_are_those_of_the_reference() -> None:
    logits, labels, _ = made(200, 7, seed=3)
    found = break_down(logits, labels, ALONE)
    predicted, p = logits.argmax(1).numpy(), softmax(logits)
    matrix = confusion_matrix(labels.numpy(), predicted, labels=range(7))
    assert found.images == tuple(matrix.sum(1))
    assert found.correct == tuple(matrix.diagonal())
    wrong = {(i, j): matrix[i, j] for i in range(7) for j in range(7) if i != j and matrix[i, j]}
    assert {(one.label, one.answer): one.images for one in found.confusions} == wrong
    counts = [one.images for one in found.confusions]
    assert counts == sorted(counts, reverse=True)
    assert sum(one.images for one in found.bins) == 200
    gaps = sum(one.images * abs(one.accuracy - one.confidence) for one in found.bins) / 200
    assert gaps == pytest.approx(expected_calibration_error(p, labels.numpy()), rel=1e-4)


def test_no_more_confusions_are_kept_than_are_read() -> None:
    logits, labels, _ = made(2000, 60, seed=4)
    found = break_down(logits, labels, ALONE)
    assert len(found.confusions) == MOST_CONFUSIONS
    assert Breakdown.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "changes", [{"correct": [1]}, {"confusions": [[0, 9, 1]]}, {"bins": [[1]]}, {"images": None}, {"images": ["x", 1]}]
)
def test_a_breakdown_of_another_shape_is_refused(changes: dict[str, object]) -> None:
    good = {"images": [2, 1], "correct": [1, 1], "confusions": [[0, 1, 1]], "bins": [[3, 90.0, 66.7]]}
    assert Breakdown.from_dict(good).accuracies == (50.0, 100.0)
    with pytest.raises((ValueError, TypeError, KeyError)):
        Breakdown.from_dict({**good, **changes})
