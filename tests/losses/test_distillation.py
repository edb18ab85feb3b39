"""The transfer loss against a slow float64 reference written from the formula."""

import math

import pytest
import torch
from torch import Tensor

from raykd.losses import kd_divergence


def slow_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Sum T^2 p ln(p / q) entry by entry with Python floats."""
    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        s = [math.exp(value / temperature) for value in s_row]
        t = [math.exp(value / temperature) for value in t_row]
        for s_value, t_value in zip(s, t, strict=True):
            p, q = t_value / sum(t), s_value / sum(s)
            total += p * math.log(p / q)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_matches_the_formula(temperature: float) -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 5, dtype=torch.float64, generator=rng) * 3
    got = kd_divergence(student, teacher, temperature).item()
    assert got == pytest.approx(slow_kl(student, teacher, temperature), rel=1e-12)


def test_uniform_student_of_a_certain_teacher_is_ln_c() -> None:
    teacher = torch.zeros(4, 8)
    teacher[:, 3] = 200.0
    assert kd_divergence(torch.zeros(4, 8), teacher).item() == pytest.approx(math.log(8))


def test_gradients_reach_both_sides() -> None:
    rng = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=rng).unbind()
    student, teacher = student.requires_grad_(), teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: kd_divergence(s, t, 3.0), (student, teacher))


def test_extreme_float32_logits_stay_finite() -> None:
    student = torch.full((2, 1000), -1e4).requires_grad_()
    teacher = torch.full((2, 1000), -1e4)
    teacher[:, 0] = 1e4
    teacher.requires_grad_()
    loss = kd_divergence(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1000), rel=1e-5)
    assert student.grad is not None and student.grad.isfinite().all()
    assert teacher.grad is not None and teacher.grad.isfinite().all()
