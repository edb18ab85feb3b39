"""Adversarial losses against loops over floats, closed forms and numerical gradients."""

import math

import pytest
import torch
from torch import Tensor

from raykd.losses import disagreement, gap, kd_divergence, masked_disagreement, patch_fake, patch_real


def test_disagreement_is_the_negative_divergence_with_both_gradients() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=rng).unbind()
    assert disagreement(student, teacher) == -kd_divergence(student, teacher)
    certain = torch.tensor([[0.0, 200.0]])
    assert disagreement(torch.zeros(1, 2), certain).item() == pytest.approx(-math.log(2))
    leaves = (student.requires_grad_(), teacher.requires_grad_())
    assert torch.autograd.gradcheck(disagreement, leaves)


def slow_masked(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        if s_row.index(max(s_row)) != t_row.index(max(t_row)):
            continue
        s, t = ([math.exp(value / temperature) for value in row] for row in (s_row, t_row))
        total += sum(b / sum(t) * math.log(b * sum(s) / (a * sum(t))) for a, b in zip(s, t, strict=True))
    return -(temperature**2) * total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_masked_adversary_is_that_of_the_rows_that_agree_over_all_rows(temperature: float) -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 24, 3, dtype=torch.float64, generator=rng)
    leaves = (student.requires_grad_(), teacher.requires_grad_())
    agrees = student.argmax(1) == teacher.argmax(1)
    assert 0 < agrees.sum() < 24
    loss = masked_disagreement(student, teacher, temperature)
    assert loss.item() == pytest.approx(slow_masked(student.detach(), teacher.detach(), temperature), rel=1e-12)
    for gradient in torch.autograd.grad(loss, leaves):
        assert not gradient[~agrees].any()
        assert gradient[agrees].any(dim=1).all()
    assert torch.autograd.gradcheck(lambda s, t: masked_disagreement(s, t, temperature), leaves)


def test_disagreement_softens_both() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=rng).unbind()
    assert disagreement(student, teacher, 3.0) == -kd_divergence(student, teacher, 3.0)
    assert disagreement(student, teacher, 3.0) != disagreement(student, teacher)


def probabilities(logits: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


def test_nothing_is_asked_of_a_student_that_errs_everywhere() -> None:
    student = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    loss = masked_disagreement(student, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, student)
    assert not gradient.any()


def test_the_gap_shows_the_class() -> None:
    rng = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, 5, 3, dtype=torch.float64, generator=rng).unbind()
    labels = torch.tensor([0, 2, 1, 1, 0])
    c = difference = both = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        c += max(abs(p - q) for p, q in zip(probabilities(s), probabilities(t), strict=True)) / 5
        difference -= math.log(probabilities([(b - a) / 2 for a, b in zip(s, t, strict=True)])[y]) / 5
        both -= math.log(probabilities([a + b for a, b in zip(s, t, strict=True)])[y]) / 5
    expected = 0.5 * (1 - math.exp(-c)) * (difference + 0.2 * both)
    assert gap(student, teacher, labels).item() == pytest.approx(expected, rel=1e-12)
    # c carries no gradient: that of the two entropies alone, times what c makes of them.
    leaves = (student.requires_grad_(), teacher.requires_grad_())
    gradients = torch.autograd.grad(gap(*leaves, labels), leaves)
    y = torch.nn.functional.one_hot(labels, 3).double()
    of_difference = (((teacher - student) / 2).softmax(1) - y) / 5 / 2
    of_both = 0.2 * ((teacher + student).softmax(1) - y) / 5
    factor = 0.5 * (1 - math.exp(-c))
    torch.testing.assert_close(gradients[0], factor * (of_both - of_difference))
    torch.testing.assert_close(gradients[1], factor * (of_both + of_difference))


def test_patches_are_summed_per_image() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 2, 4, dtype=torch.float64, generator=rng, requires_grad=True)
    sigmoid = [1 / (1 + math.exp(-value)) for value in logits.flatten().tolist()]
    real = sum(-math.log(p) for p in sigmoid) / 3
    fake = sum(-math.log(1 - p) for p in sigmoid) / 3
    assert patch_real(logits).item() == pytest.approx(real, rel=1e-12)
    assert patch_fake(logits).item() == pytest.approx(fake, rel=1e-12)
    assert torch.autograd.gradcheck(patch_real, (logits,))
    assert torch.autograd.gradcheck(patch_fake, (logits,))


def test_undecided_patches_cost_ln2_each_and_certain_ones_stay_finite() -> None:
    undecided = torch.zeros(5, 1, 8, 8)
    assert patch_real(undecided).item() == pytest.approx(64 * math.log(2), rel=1e-6)
    assert patch_fake(undecided).item() == pytest.approx(64 * math.log(2), rel=1e-6)
    sure = torch.full((1, 1, 1, 1), 1000.0, requires_grad=True)
    loss = patch_fake(sure)
    loss.backward()
    assert loss.item() == 1000.0
    assert sure.grad is not None and sure.grad.item() == 1.0
