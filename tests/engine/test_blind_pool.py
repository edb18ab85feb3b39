"""The images that students are judged on: a sample of all reports, in which every class counts and a collapse none."""

import copy
import math

import pytest
import torch
from torch import Tensor

from raykd.distributed.world import World, mix
from raykd.engine.blind_pool import _ARRIVAL, BlindPool, balanced_score, class_credit
from raykd.results import COVERAGE, why_not_judged
from tests.methods.toy import SPEC, Plain, assert_same, made_teacher

ALONE = World.alone()


def sure(labels: list[int], classes: int, logit: float = 30.0) -> Tensor:
    """Logits of answers beyond doubt."""
    return logit * torch.nn.functional.one_hot(torch.tensor(labels), classes).float()


def reference(answers: list[int], labels: list[int], classes: int) -> float:
    """Mean over classes of the share of images that are answered alike; nought for a class without images."""
    of = [[a == b for a, b in zip(answers, labels, strict=True) if b == c] for c in range(classes)]
    return 100 * sum(sum(one) / len(one) for one in of if one) / classes


@pytest.mark.parametrize(
    ("answers", "labels", "agreement"),
    [
        ([3] * 400, [3] * 400, 10.0),  # one class, agreed on by a student that knows no other
        (list(range(10)) * 40, list(range(10)) * 40, 100.0),
        ([0] * 400, list(range(10)) * 40, 10.0),
        ([0] * 400, [0] * 220 + list(range(1, 10)) * 20, 10.0),  # a class shown more often counts as the others
        ([0] * 398 + [1, 2], [0] * 398 + [1, 2], 100 * (1 + 2 / 8) / 10),  # an image or two show no class
        ([7] * 4, [7] * 4, 100.0),  # so few show no lack of any
    ],
)
def test_agreement_is_a_mean_over_the_classes(answers: list[int], labels: list[int], agreement: float) -> None:
    got = balanced_score(sure(answers, 10), sure(labels, 10), ALONE)["agreement"]
    assert got == pytest.approx(agreement)
    if min(labels.count(label) for label in set(labels)) >= 8 and len(labels) == 400:
        assert got == pytest.approx(reference(answers, labels, 10))


def test_what_is_missing_diverges_like_an_answer_that_knows_nothing() -> None:
    labels = list(range(5)) * 40
    same = balanced_score(sure(labels, 10), sure(labels, 10), ALONE)
    assert same["agreement"] == pytest.approx(50)
    assert same["kl"] == pytest.approx(math.log(10) / 2)
    ignorant = balanced_score(torch.zeros(200, 10), sure(labels, 10), ALONE)
    assert ignorant["kl"] == pytest.approx(math.log(10), rel=1e-5)


@pytest.mark.parametrize(("images", "classes"), [(200, 1000), (64, 10), (2048, 10), (2000, 100)])
def test_even_answers_show_all_classes_and_one_answer_few(images: int, classes: int) -> None:
    labels = torch.randint(0, classes, (images,), generator=torch.Generator().manual_seed(0))
    assert 0.85 < class_credit(labels, classes, ALONE).sum() <= 1 + 1e-9
    assert class_credit(torch.zeros_like(labels), classes, ALONE).sum() < 0.13


@pytest.mark.parametrize(("shown", "judged"), [(10, True), (8, True), (7, False), (1, False)])
def test_too_few_classes_are_not_to_be_judged_by(shown: int, judged: bool) -> None:
    coverage = 100 * class_credit(torch.arange(shown).repeat(50), 10, ALONE).sum().item()
    told = why_not_judged({COVERAGE: coverage})
    assert (told is None) == judged
    assert told is None or f"show {10 * shown} % of its classes" in told
    assert why_not_judged({"accuracy/top1": 9.0}) is None


def taken(images: Tensor, step: int) -> Tensor:
    """The images of a report in the order in which a pool of seed 0 takes them."""
    generator = torch.Generator().manual_seed(mix(0, _ARRIVAL, step))
    return images[torch.randperm(len(images), generator=generator)]


def made(step: int, images: int = 8) -> Tensor:
    """Images whose mean tells the report that they are of."""
    noise = torch.randn(images, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    return noise - noise.mean((1, 2, 3), keepdim=True) + 10 * step


def filled(reports: int) -> BlindPool:
    pool, teacher = BlindPool(SPEC, 0, mirrored=False), made_teacher()
    for step in range(reports):
        pool.add(made(step), step, teacher, ALONE)
    return pool


def ages(pool: BlindPool) -> list[int]:
    """Return the reports that images as they were made are of."""
    held = pool.state_dict()
    means = held["images"].float().mean((1, 2, 3))[~held["stretched"]]
    return (means / 10).round().int().tolist()


def test_images_of_all_ages_stay_and_their_number_does_not_grow() -> None:
    assert ages(filled(3)) == [0] * 4 + [1] * 4 + [2] * 4
    pool = filled(100)
    assert len(pool) == 80  # 20 for each class
    kept = ages(pool)
    assert 25 < len(kept) < 55
    assert len(set(kept)) > 20
    assert 8 < sum(age < 50 for age in kept) < 32, "early and late ones alike"
    assert kept == sorted(kept) == ages(filled(100))


class ByBrightness(torch.nn.Module):
    """Answers the class that an image is as bright as."""

    def forward(self, images: Tensor) -> Tensor:
        return -(images.mean((1, 2, 3))[:, None] - torch.arange(4.0)).abs()


def test_classes_that_come_in_turn_are_all_shown() -> None:
    """A bank's images are of class 0, 1, 2, ... again and again: those that stay as they are must be of all."""
    images = (torch.arange(64.0) % 4)[:, None, None, None].expand(64, 1, 8, 8)
    pool = BlindPool(SPEC, 0, mirrored=False)
    labels = pool.add(images.contiguous(), 1, ByBrightness(), ALONE)
    assert set(labels.tolist()) == {0, 1, 2, 3}
    assert pool.coverage > 90


def test_a_pool_goes_on_as_if_it_had_not_been_saved() -> None:
    whole, half, other = filled(24), filled(12), BlindPool(SPEC, 0, mirrored=False)
    other.load_state_dict(copy.deepcopy(half.state_dict()))
    teacher = made_teacher()
    for step in range(12, 24):
        other.add(made(step), step, teacher, ALONE)
    assert_same(other.state_dict(), whole.state_dict())


def test_what_earlier_versions_saved_is_read() -> None:
    pool, images, logits = BlindPool(SPEC, 0, mirrored=False), torch.randn(6, 1, 8, 8).half(), torch.randn(6, 4)
    pool.load_state_dict([[images[:4], logits[:4]], [images[4:], logits[4:]]])
    assert len(pool) == 6
    assert_same({name: pool.state_dict()[name] for name in ("images", "teacher_logits")},
                {"images": images, "teacher_logits": logits})  # fmt: skip
    pool.load_state_dict([])
    assert len(pool) == 0


def test_a_student_is_judged_by_the_half_that_it_agrees_on_less() -> None:
    torch.manual_seed(0)
    pool, student = filled(3), Plain()
    held = pool.state_dict()
    halves = []
    for rows in (held["stretched"], ~held["stretched"]):
        with torch.no_grad():
            logits = student.eval()(held["images"][rows].float())
        halves.append(balanced_score(logits, held["teacher_logits"][rows], ALONE))
    score = pool.score(student, ALONE)
    assert halves[0] != halves[1]
    assert score["agreement"] == pytest.approx(min(half["agreement"] for half in halves))
    assert score["kl"] == pytest.approx(max(half["kl"] for half in halves), rel=1e-5)


def test_half_of_the_images_are_stretched_to_the_range_of_pixels() -> None:
    pool, images = BlindPool(SPEC, 0, mirrored=False), 3 + 5 * torch.randn(16, 1, 8, 8)
    pool.add(images, 1, made_teacher(), ALONE)
    held = pool.state_dict()
    assert held["stretched"].tolist() == [False] * 8 + [True] * 8
    images, whole = taken(images, 1), [2, 3, 6, 7]  # neither shifted nor cut
    assert torch.equal(held["images"][:8][whole], images[::2][whole].half())
    stretched, before = held["images"][8:][whole].float(), images[1::2][whole]
    unit = SPEC.denormalise(stretched)
    assert unit.amin((1, 2, 3)).tolist() == pytest.approx([0] * 4, abs=2e-3)
    assert unit.amax((1, 2, 3)).tolist() == pytest.approx([1] * 4, abs=2e-3)
    for one, other in zip(stretched, before, strict=True):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.999


@pytest.mark.parametrize("mirrored", [False, True])
def test_some_images_are_other_views(mirrored: bool) -> None:
    pool, images = BlindPool(SPEC, 0, mirrored=mirrored), torch.randn(64, 1, 8, 8)
    before = images.clone()
    pool.add(images, 1, made_teacher(), ALONE)
    assert torch.equal(images, before)
    held, images = pool.state_dict()["images"][:32], taken(images, 1)[::2].half()
    for row in range(0, 32, 4):
        view = held[row].flip(-1) if mirrored and row % 8 == 0 else held[row]
        shifts = [images[row, :, y : y + 4, x : x + 4] for y in range(5) for x in range(5)]
        assert any(torch.equal(view[:, 2:-2, 2:-2], shift) for shift in shifts)
    held, images = held[1::4], images[1::4]
    assert torch.equal(held[..., :4], images[..., :4])
    assert all(any(torch.equal(cut, other) for other in images[..., 4:]) for cut in held[..., 4:])
    assert not torch.equal(held, images)


def test_an_image_that_comes_again_tells_nothing_new() -> None:
    again, fresh = (BlindPool(SPEC, 0, mirrored=False) for _ in range(2))
    teacher = made_teacher()
    for step in range(9):
        again.add(made(0), step, teacher, ALONE)
        fresh.add(made(step), step, teacher, ALONE)
    assert len(again) == len(fresh) == 72
    assert again.effective_images <= 8, "there are no more"
    assert fresh.effective_images > 16
