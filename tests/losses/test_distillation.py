"""The transfer loss against a slow float64 reference written from the formula."""

import math

import pytest
import torch
from torch import Tensor

from raykd.losses import attention_transfer, divergences, kd_divergence, logit_distances, self_paced_weight


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


def test_divergences_are_those_of_the_rows() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64, generator=rng).unbind()
    rows = [slow_kl(student[i : i + 1], teacher[i : i + 1], 3.0) for i in range(5)]
    assert divergences(student, teacher, 3.0).tolist() == pytest.approx(rows, rel=1e-12)


def test_distances_of_logits_are_means_of_absolute_values() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 1.0], [0.0, -4.0]])
    assert logit_distances(student, teacher).tolist() == [1.5, 2.0]


def slow_attention(maps: Tensor) -> list[list[float]]:
    rows = []
    for image in maps.detach():
        energy = [sum(float(channel[y, x]) ** 2 for channel in image) for y in range(2) for x in range(3)]
        length = math.sqrt(sum(value**2 for value in energy))
        rows.append([value / length for value in energy])
    return rows


def test_attention_compares_where_not_how_much() -> None:
    rng = torch.Generator().manual_seed(0)
    student = [torch.randn(2, c, 2, 3, dtype=torch.float64, generator=rng, requires_grad=True) for c in (2, 5)]
    teacher = [torch.randn(2, 4, 2, 3, dtype=torch.float64, generator=rng) for _ in range(2)]
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        pairs = zip(sum(slow_attention(s), []), sum(slow_attention(t), []), strict=True)
        expected += sum((a - b) ** 2 for a, b in pairs) / 12
    assert attention_transfer(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    louder = [7 * maps for maps in teacher]
    assert attention_transfer(teacher, louder).item() == pytest.approx(0.0, abs=1e-15)
    assert torch.autograd.gradcheck(lambda *maps: attention_transfer(maps, teacher), tuple(student))


@pytest.mark.parametrize("pace", [0.0, 2.0, 12.0])
def test_the_weight_of_a_paced_loss(pace: float) -> None:
    values = torch.tensor([0.0, 0.5, 3.0, 1e4], dtype=torch.float64, requires_grad=True)
    weights = self_paced_weight(values, pace)
    expected = [(1 + math.exp(-pace)) / (1 + math.exp(min(value - pace, 700))) for value in values.tolist()]
    assert weights.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-300)
    assert weights[0] == 1
    assert not weights.requires_grad
