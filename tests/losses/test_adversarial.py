"""Adversarial losses against loops over floats, closed forms and numerical gradients."""

import math

import pytest
import torch

from raykd.losses import disagreement, kd_divergence, patch_fake, patch_real


def test_disagreement_is_the_negative_divergence_with_both_gradients() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=rng).unbind()
    assert disagreement(student, teacher) == -kd_divergence(student, teacher)
    certain = torch.tensor([[0.0, 200.0]])
    assert disagreement(torch.zeros(1, 2), certain).item() == pytest.approx(-math.log(2))
    leaves = (student.requires_grad_(), teacher.requires_grad_())
    assert torch.autograd.gradcheck(disagreement, leaves)


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
