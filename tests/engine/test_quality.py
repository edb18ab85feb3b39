"""Measures of collapse: known where the answer is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from raykd.distributed.world import World
from raykd.engine.quality import batch_quality, image_quality
from raykd.spec import DataSpec
from tests.methods.toy import SPEC, made_teacher

CLASSES = 4


class Bright(nn.Module):
    """Tells the class by the first pixel; the features are the pixels."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        flat = images.flatten(1)
        return nn.functional.one_hot(flat[:, 0].long(), CLASSES).float() * 9, flat


def quality(images: Tensor, asked: Tensor | None) -> dict[str, float]:
    halves = [(i, None if asked is None else asked.split(8)[n]) for n, i in enumerate(images.split(8))]
    return image_quality(halves, Bright(), CLASSES, World.alone()).figures


def made(labels: Tensor, spread: float) -> Tensor:
    noise = torch.randn(len(labels), 1, 4, 4, generator=torch.Generator().manual_seed(0)) * spread
    noise[:, 0, 0, 0] = labels.float()
    return noise


def test_balanced_classes_of_one_picture_each() -> None:
    labels = torch.arange(16) % CLASSES
    figures = quality(made(labels, 0.0), labels)
    assert figures["classes"] == pytest.approx(CLASSES)
    assert figures["hit"] == 100
    assert figures["pixel_diversity"] == pytest.approx(0, abs=1e-4)
    assert figures["feature_diversity"] == pytest.approx(0, abs=1e-4)


def test_one_class_only_and_half_of_the_wishes_met() -> None:
    labels = torch.ones(16, dtype=torch.int64)
    figures = quality(made(labels, 1.0), torch.arange(16) % 2)
    assert figures["classes"] == pytest.approx(1)
    assert figures["hit"] == 50


def test_diversity_equals_the_slow_reference() -> None:
    labels = torch.arange(16) % 3
    images = made(labels, 2.0)
    rows = images.flatten(1).double()
    away = torch.stack([row - rows[labels == label].mean(0) for row, label in zip(rows, labels, strict=True)])
    expected = 100 * (away.square().sum() / rows.square().sum()).sqrt().item()
    figures = quality(images, None)
    assert figures["pixel_diversity"] == pytest.approx(expected)
    assert "hit" not in figures


UNIT = DataSpec("unit", CLASSES, 1, 4, (0.0,), (1.0,))


def test_a_batch_of_one_picture_a_class_has_no_diversity_and_noise_that_of_the_run() -> None:
    labels = torch.arange(64) % CLASSES
    alike = batch_quality(made(labels, 0.0), Bright(), UNIT, World.alone())
    assert alike["images/pixel_diversity"] == pytest.approx(0, abs=1e-4)
    assert alike["images/outside"] == pytest.approx(100 / 16 * 2 / 4), "one pixel of 16 of the classes 2 and 3 of 4"
    assert alike["images/confident"] == 100
    assert "images/batch_norm_gap" not in alike
    varied = made(labels, 1.0)
    found = batch_quality(varied, Bright(), UNIT, World.alone())["images/pixel_diversity"]
    whole = quality(varied, None)["pixel_diversity"]
    assert found == pytest.approx(whole * (64 / 60) ** 0.5, rel=1e-4), "but for the distances that are free"
    single = batch_quality(made(torch.arange(CLASSES), 1.0), Bright(), UNIT, World.alone())
    assert "images/pixel_diversity" not in single


def test_the_gap_of_batch_norm_is_small_on_what_a_teacher_knows_and_large_on_other_contrast() -> None:
    teacher = made_teacher()
    known = torch.randn(128, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    convolution, norm = teacher.network.body[:2]  # type: ignore[index]
    norm.running_var.copy_(convolution(known).var((0, 2, 3), unbiased=False).detach())
    found = [batch_quality(s * known, teacher, SPEC, World.alone())["images/batch_norm_gap"] for s in (1, 4)]
    assert found == pytest.approx([0, math.log(16)], abs=1e-4)


def test_the_mean_image_of_a_class_and_the_gaps_of_layers_are_those_of_all_batches_at_once() -> None:
    teacher = made_teacher()
    images = 2 * torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    labels = (torch.arange(48) % 2).sort().values  # a batch shows one class, as of a bank
    found = image_quality(zip(images.split(8), labels.split(8), strict=True), teacher, SPEC.num_classes, World.alone())
    assert found.images.tolist() == [24, 24, *[0] * (SPEC.num_classes - 2)]
    torch.testing.assert_close(found.means[0], images[:24].mean(0))
    assert not found.means[2:].any()
    convolution, norm = teacher.network.body[:2]  # type: ignore[index]
    seen = convolution(images).detach().var((0, 2, 3), unbiased=False)
    expected = (seen / norm.running_var).log().abs().mean().item()
    name, gap = next(iter(found.gaps.items()))
    assert name == "body.1"
    assert gap == pytest.approx(expected, rel=1e-4)
    assert not norm._forward_pre_hooks, "nothing is left behind"
