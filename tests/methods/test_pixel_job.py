"""One job: its loss and its steps against a float64 loop written out here, what the teacher is shown, what is kept."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.methods.base import MethodContext
from raykd.methods.pixel_job import Crop, PixelConfig, PixelJob, plan_stages
from raykd.models.teacher import Teacher
from tests.methods.patterns import double_precision, teacher_of_patterns
from tests.methods.toy import SPEC

ROWS = 6
LABELS = torch.arange(ROWS) % SPEC.num_classes
PLAIN = {"flip": False, "pixel_optim": {"name": "sgd", "lr": 0.1, "momentum": 0.0}}
WEIGHTS = {"class_weight": 0.7, "moment_weight": 0.3, "first_moment_factor": 3.0, "tv_weight": 0.05, "l2_weight": 0.02}


@pytest.fixture
def double() -> Iterator[None]:
    with double_precision():
        yield


class AnySize(nn.Module):
    """Takes images of any size, and has two BatchNorm layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
        )
        self.head = nn.Linear(6, SPEC.num_classes)
        for layer in (self.body[1], self.body[4]):
            assert isinstance(layer, nn.BatchNorm2d)
            assert layer.running_mean is not None
            layer.running_mean.normal_()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


def of_any_size(steps: int = 6) -> MethodContext:
    torch.manual_seed(4)
    return setting(steps, Teacher(AnySize(), channels=1, size=8))


def setting(steps: int = 6, teacher: Teacher | None = None) -> MethodContext:
    return MethodContext(
        spec=SPEC,
        world=World.alone(),
        networks={"teacher": teacher or teacher_of_patterns()},
        student_optim=None,
        steps=steps,
        global_batch=ROWS,
        seed=0,
        compiler=lambda network: network,
    )


def job(context: MethodContext | None = None, number: int = 2, **fields: Any) -> PixelJob:
    context = context or setting()
    config = PixelConfig.model_validate({**PLAIN, **fields})
    return PixelJob(number, LABELS, plan_stages(config, context), config, context)


def views(one: PixelJob, iterations: int) -> list[Tensor]:
    """What the teacher is shown in iterations in which nothing else changes."""
    found = []
    for one.iteration in range(iterations):
        found.append(one.view(one._stage_of(one.iteration)).detach())
    return found


def terms(network: AnySize, x: Tensor) -> dict[str, Tensor]:
    """The four terms, by loops."""
    label = sum(-network(x).log_softmax(1)[row, cls] for row, cls in enumerate(LABELS)) / ROWS
    inputs = [network.body[0](x)]
    inputs.append(network.body[3](network.body[2](network.body[1](inputs[0]))))
    moments = []
    for seen, layer in zip(inputs, (network.body[1], network.body[4]), strict=True):
        rows = seen.transpose(0, 1).flatten(1)
        mean = rows.mean(1)
        variance = (rows - mean[:, None]).square().mean(1)
        apart = (mean - layer.running_mean).square().sum().sqrt()
        moments.append(apart + (variance - layer.running_var).square().sum().sqrt())
    variation, l2 = torch.zeros(()), torch.zeros(())
    for image in x[:, 0]:
        steps = (image[1:] - image[:-1], image[:, 1:] - image[:, :-1], image[1:, 1:] - image[:-1, :-1])
        variation = variation + sum(d.square().sum().sqrt() for d in (*steps, image[1:, :-1] - image[:-1, 1:])) / ROWS
        l2 = l2 + image.square().sum().sqrt() / ROWS
    factor = WEIGHTS["first_moment_factor"]
    return {
        "class": torch.as_tensor(label),
        "moments": factor * moments[0] + moments[1],
        "total_variation": variation,
        "l2": l2,
    }


def test_iterations_are_those_of_the_equation(double: None) -> None:
    """Adam, its rate's ramp and cosine, and clipping included."""
    steps, rate, ramp, betas = 6, 0.3, 2, (0.5, 0.9)
    optim = {"name": "adam", "lr": rate, "betas": betas, "warmup_steps": ramp, "schedule": {"name": "cosine"}}
    context = of_any_size(steps)
    ours = job(context, 2, **WEIGHTS, pixel_optim=optim)
    network = context.networks["teacher"].network
    assert isinstance(network, AnySize)
    x = ours._pixels.detach().clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    low, high = (0 - 0.3) / 0.4, (1 - 0.3) / 0.4
    clipped = 0
    for step in range(steps):
        figures = ours.advance()
        x.requires_grad_()
        each = terms(network, x)
        for name, value in each.items():
            torch.testing.assert_close(figures[f"loss/{name}"], value.detach(), msg=name)
        names = {"class": "class_weight", "moments": "moment_weight", "total_variation": "tv_weight", "l2": "l2_weight"}
        (slope,) = torch.autograd.grad(sum(WEIGHTS[weight] * each[name] for name, weight in names.items()), x)  # type: ignore[arg-type]
        x = x.detach()
        first, second = betas[0] * first + (1 - betas[0]) * slope, betas[1] * second + (1 - betas[1]) * slope**2
        lr = rate * min(1, (step + 1) / ramp) * (1 + math.cos(math.pi * step / steps)) / 2
        size = (second / (1 - betas[1] ** (step + 1))).sqrt() + 1e-8
        x = x - lr * first / (1 - betas[0] ** (step + 1)) / size
        clipped += int(((x < low) | (x > high)).sum())
        x = x.clamp(low, high)
        torch.testing.assert_close(ours._pixels.detach(), x, rtol=1e-9, atol=1e-11)
    assert clipped
    torch.testing.assert_close(ours.images(), x, rtol=1e-9, atol=1e-11)


def test_images_keep_to_what_pixels_there_can_be() -> None:
    free, kept = job(clip=False, pixel_optim={"name": "adam", "lr": 0.5}), job(pixel_optim={"name": "adam", "lr": 0.5})
    for _ in range(4):
        free.advance(), kept.advance()
        unit = SPEC.denormalise(kept._pixels.detach())
        assert unit.min() >= -1e-6
        assert unit.max() <= 1 + 1e-6
    unit = SPEC.denormalise(free._pixels.detach())
    assert unit.min() < 0
    assert unit.max() > 1


def test_least_areas_fall_from_the_whole_to_the_smallest() -> None:
    curriculum = Crop(schedule="curriculum")
    assert [curriculum.least_area(progress) for progress in (0, 0.5, 1)] == pytest.approx([1, 0.54, 0.08])
    areas = [curriculum.least_area(step / 4000) for step in range(4000)]
    assert areas == sorted(areas, reverse=True)
    assert areas[-1] == pytest.approx(0.08, abs=1e-6), "in the last iteration"
    half = Crop(schedule="curriculum", until=0.5, smallest=0.2)
    assert [half.least_area(progress) for progress in (0, 0.25, 0.5, 0.9)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert Crop(schedule="fixed").least_area(0) == 0.08


def test_a_curriculum_begins_with_whole_images_and_ends_with_parts() -> None:
    one = job(setting(steps=400), crop={"schedule": "curriculum"})
    seen = views(one, 400)
    torch.testing.assert_close(seen[0], one._pixels.detach())
    spread = [(view - one._pixels.detach()).abs().mean().item() for view in seen]
    assert sum(spread[:40]) < 0.2 * sum(spread[-40:])
    fixed = [(view - one._pixels.detach()).abs().mean().item() for view in views(job(crop={"schedule": "fixed"}), 40)]
    assert sum(fixed) == pytest.approx(sum(spread[-40:]), rel=0.5), "as it begins without a curriculum"


@pytest.mark.parametrize(("per", "alike"), [("batch", True), ("image", False)])
def test_a_part_is_of_the_batch_or_of_each_image(per: str, alike: bool) -> None:
    one = job(crop={"schedule": "fixed", "per": per})
    with torch.no_grad():
        one._pixels.copy_(one._pixels[:1].expand_as(one._pixels))
    view = views(one, 1)[0]
    assert torch.equal(view, view[:1].expand_as(view)) == alike


@pytest.mark.parametrize(("sides", "least"), [("both", -2), ("one", 0)])
def test_a_batch_is_rolled_as_one_and_from_the_sides_asked_for(sides: str, least: int) -> None:
    one = job(roll=2, roll_from=sides)
    pixels, found = one._pixels.detach(), set()
    for view in views(one, 200):
        found |= {(a, b) for a in range(-3, 4) for b in range(-3, 4) if torch.equal(pixels.roll((a, b), (2, 3)), view)}
    assert found == {(a, b) for a in range(least, 3) for b in range(least, 3)}


def test_a_batch_is_mirrored_every_other_time() -> None:
    one = job(flip=True)
    pixels = one._pixels.detach()
    mirrored = [torch.equal(view, pixels.flip(-1)) for view in views(one, 200)]
    assert all(flipped or torch.equal(view, pixels) for flipped, view in zip(mirrored, views(one, 200), strict=True))
    assert 70 < sum(mirrored) < 130


def test_coarse_images_are_shown_first_with_an_optimizer_of_their_own() -> None:
    context = of_any_size(steps=5)
    optim = {"name": "adam", "lr": 0.1, "schedule": {"name": "cosine"}}
    one = job(
        context, coarse=[{"pooling": 4, "iterations": 2}, {"pooling": 2, "iterations": 1}], roll=3, pixel_optim=optim
    )
    sizes, optimizers = [], []
    for _ in range(5):
        one.advance()
        optimizers.append(one.updater)
    sizes = [view.shape[-1] for view in views(one, 5)]
    assert sizes == [2, 2, 4, 8, 8]
    assert [updater.total_steps for updater in optimizers] == [2, 2, 1, 2, 2]
    assert len(set(map(id, optimizers))) == 3
    pixels = one._pixels.detach()
    pooled = pixels.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    one.iteration = 2
    view = one.view(one._stages[1]).detach()
    rolled = [pooled.roll((a, b), (2, 3)) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    assert any(torch.allclose(view, each) for each in rolled), "by less, as the pixels are larger"


def test_what_resolutions_do_not_fit_is_refused() -> None:
    coarse = [{"pooling": 2, "iterations": 3}]
    with pytest.raises(UsageError, match="takes 3 of the 3 iterations.*more than 3"):
        job(of_any_size(steps=3), coarse=coarse)
    with pytest.raises(UsageError, match="3 x 3 pixels, which do not divide 8"):
        job(of_any_size(), coarse=[{"pooling": 3, "iterations": 1}])
    with pytest.raises(UsageError, match=r"rejects images \[2, 1, 4, 4\]"):
        job(coarse=coarse)  # its linear layers want 8 pixels


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_job_goes_on_bit_for_bit(cut: int, keep: str) -> None:
    fields = {
        "keep": keep, "flip": True, "roll": 2, "crop": {"schedule": "curriculum"},
        "coarse": [{"pooling": 2, "iterations": 2}],
        "pixel_optim": {"name": "adam", "lr": 0.1, "schedule": {"name": "cosine"}},
    }  # fmt: skip
    whole = job(of_any_size(), 2, **fields)
    for _ in range(cut):
        whole.advance()
    parts = copy.deepcopy(whole.shard())
    assert {name.split("/")[0] for name in parts} == {"0000002"}
    again = job(of_any_size(), 2, **fields)
    again.load({**parts, "0000003/pixels": torch.zeros(1)}, cut)
    for _ in range(6 - cut):
        expected, got = whole.advance(), again.advance()
        assert {name: value.item() for name, value in got.items()} == {name: v.item() for name, v in expected.items()}
    assert torch.equal(again._pixels, whole._pixels)
    assert torch.equal(again.images(), whole.images())


def test_jobs_and_seeds_have_noise_of_their_own() -> None:
    one, other, seeded = job(), job(number=3), job(replace(setting(), seed=1))
    assert not torch.allclose(one._pixels, other._pixels)
    assert not torch.allclose(one._pixels, seeded._pixels)
    assert torch.equal(one._pixels, job()._pixels)
    assert abs(float(torch.cat([job(number=n)._pixels for n in range(8)]).detach().std()) - 1) < 0.05
    shown = []
    for context, number in ((setting(), 2), (setting(), 3), (replace(setting(), seed=1), 2)):
        each = job(context, number, roll=2)
        with torch.no_grad():
            each._pixels.copy_(one._pixels)
        shown.append(torch.stack(views(each, 20)))
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])


def test_the_best_images_are_those_of_the_lowest_loss_and_no_later_step_changes_them(double: None) -> None:
    weights = {"class_weight": 0.7, "tv_weight": 0.05, "l2_weight": 0.02}
    context = of_any_size(steps=40)
    one = job(context, 2, keep="best", roll=2, **weights, pixel_optim={"name": "adam", "lr": 2.0})
    network = context.networks["teacher"].get_submodule("network")
    seen: list[tuple[Tensor, Tensor]] = []
    for step in range(40):
        pixels = one._pixels.detach().clone()
        view = one.view(one._stages[0]).detach()
        label = nn.functional.cross_entropy(network(view), LABELS, reduction="none")
        d = (view[..., 1:] - view[..., :-1], view[:, :, 1:] - view[:, :, :-1])
        e = (view[:, :, 1:, 1:] - view[:, :, :-1, :-1], view[:, :, 1:, :-1] - view[:, :, :-1, 1:])
        variation = torch.stack([part.flatten(1).norm(dim=1) for part in (*d, *e)]).sum(0)
        seen.append((0.7 * label + 0.05 * variation + 0.02 * view.flatten(1).norm(dim=1), pixels))
        if step == 20:
            assert one._best is not None
            kept, then = one._best, [tensor.clone() for tensor in one._best]
        one.advance()
    losses, pixels = (torch.stack(column) for column in zip(*seen, strict=True))
    best = losses.argmin(0)
    assert len(set(best.tolist())) > 1, "each image has its own"
    assert one._best is not None
    torch.testing.assert_close(one._best[0], losses.min(0).values)
    assert torch.equal(one._best[1], pixels[best, torch.arange(ROWS)])
    assert all(torch.equal(now, before) for now, before in zip(kept, then, strict=True)), "no alias"
    assert not torch.equal(one._best[1], one._pixels)


class NoNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, SPEC.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


def test_a_teacher_without_batch_norm_needs_no_moments_to_be_asked_for() -> None:
    context = setting(40, Teacher(NoNorm(), channels=1, size=8))
    with pytest.raises(UsageError, match="no BatchNorm"):
        job(context)
    one = job(context, moment_weight=0, pixel_optim={"name": "adam", "lr": 0.2})
    rows = [one.advance() for _ in range(40)]
    assert rows[-1]["teacher/hit"] == 100
    assert {row["loss/moments"].item() for row in rows} == {0.0}


def test_refused_gradients_are_remembered_by_the_next_optimizer() -> None:
    one, after = job(), job(number=3)
    with torch.no_grad():
        one._pixels[0] = torch.inf
    one.advance()
    assert one.updater.refused == 1
    after.inherit(one.updater)
    assert (after.updater.refused.item(), after.updater.at_fault.item()) == (1, 1)
