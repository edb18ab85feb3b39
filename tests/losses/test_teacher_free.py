"""Tf-KD's targets against the paper's equations written out by hand."""

import math

import pytest
import torch

from raykd.losses import kd_divergence, label_smoothing, virtual_teacher


def test_label_smoothing_matches_the_smoothed_target() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64, generator=rng, requires_grad=True)
    labels = torch.tensor([2, 0, 2])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        normaliser = math.log(sum(math.exp(value) for value in row))
        for c, value in enumerate(row):
            total -= (0.9 * (c == label) + 0.1 / 4) * (value - normaliser)
    assert label_smoothing(logits, labels, 0.1).item() == pytest.approx(total / 3, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: label_smoothing(x, labels, 0.1), (logits,))


def test_uniform_prediction_costs_ln_c_whatever_the_smoothing() -> None:
    loss = label_smoothing(torch.zeros(2, 8), torch.tensor([1, 5]), 0.3)
    assert loss.item() == pytest.approx(math.log(8))


def test_virtual_teacher_is_right_and_equally_unsure_elsewhere() -> None:
    got = virtual_teacher(torch.tensor([1, 0]), num_classes=3, correct_prob=0.9)
    torch.testing.assert_close(got, torch.tensor([[0.05, 0.9, 0.05], [0.9, 0.05, 0.05]]))
    many = virtual_teacher(torch.tensor([7]), 1000, 0.99)
    assert many.sum().item() == pytest.approx(1.0)
    assert many.argmax().item() == 7


def test_its_logarithm_serves_as_teacher_logits() -> None:
    labels = torch.tensor([0, 1])
    target = virtual_teacher(labels, 2, 0.9)
    # KL of (0.9, 0.1) to a uniform student, at T = 1.
    expected = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert kd_divergence(torch.zeros(2, 2), target.log()).item() == pytest.approx(expected)
    # At T = 2 the target softens to (3, 1) / 4.
    softened = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    got = kd_divergence(torch.zeros(2, 2), target.log(), 2.0).item()
    assert got == pytest.approx(softened, rel=1e-5)
