"""LS-GDFD's bank: the step against the equations, what it learns, what it refuses."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.generators import GeneratorBank
from raykd.methods.lsgdfd import Lsgdfd
from raykd.models.teacher import Teacher
from tests.methods.patterns import (
    CLASSES,
    EACH,
    PLAIN_SGD,
    double_precision,
    lsgdfd,
    pattern_setting,
    statistics,
    teacher_of_patterns,
)
from tests.methods.toy import GENERATOR, SPEC, advance, assert_same, made_config

WEIGHTS: dict[str, Any] = {"class_weight": 0.7, "moment_weight": 1.3, "tv_weight": 0.05, "l2_weight": 0.02}


@pytest.fixture
def double() -> Iterator[None]:
    with double_precision():
        yield


def shift_seen(method: Lsgdfd) -> list[Tensor]:
    """The images that the teacher is shown from now on."""
    seen: list[Tensor] = []
    method._objective.teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    return seen


def apart(mean: Tensor, var: Tensor, wanted: tuple[Tensor, Tensor], kind: str) -> Tensor:
    if kind == "distance":
        return (mean - wanted[0]).square().sum().sqrt() + (var - wanted[1]).square().sum().sqrt()
    var, ours = var + 1e-5, wanted[1] + 1e-5
    return 0.5 * ((ours / var).log() + (var + (mean - wanted[0]) ** 2) / ours - 1).sum()


def over_pixels(inputs: Tensor) -> tuple[Tensor, Tensor]:
    rows = inputs.transpose(0, 1).flatten(1)
    return rows.mean(1), (rows - rows.mean(1, keepdim=True)).square().mean(1)


def objective(method: Lsgdfd, kind: str, whole: bool, roll: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the terms as means over members, and the loss, by a loop over classes and by sums."""
    members, teacher = method.members, teacher_of_patterns().network
    assert members is not None
    z = members.latents(11, 0)
    images = members.bank(z).roll(roll, (2, 3)).unflatten(0, (CLASSES, EACH))
    terms: dict[str, Any] = {"class": 0, "moments": 0, "total_variation": 0, "l2": 0}
    for cls in range(CLASSES):
        x = images[cls]
        terms["class"] -= teacher(x).log_softmax(1)[:, cls].mean() / CLASSES
        inputs = teacher.body[0](x)  # type: ignore[index, operator]
        wanted = [(m[cls].float(), v[cls].float()) for m, v in method.context.statistics or []]
        terms["moments"] += apart(*over_pixels(inputs), wanted[0], kind) / CLASSES
        for x_i in x[:, 0]:
            steps = (x_i[1:] - x_i[:-1], x_i[:, 1:] - x_i[:, :-1], x_i[1:, 1:] - x_i[:-1, :-1])
            tv = sum(d.square().sum().sqrt() for d in (*steps, x_i[1:, :-1] - x_i[:-1, 1:]))
            terms["total_variation"] += tv / len(x) / CLASSES
            terms["l2"] += x_i.square().sum().sqrt() / len(x) / CLASSES
    if whole:
        norm: Any = teacher.body[1]  # type: ignore[index]
        wanted_all = norm.running_mean.float(), norm.running_var.float()
        terms["moments"] = apart(*over_pixels(teacher.body[0](images.flatten(0, 1))), wanted_all, kind)  # type: ignore[index, operator]
    names = {"class": "class_weight", "moments": "moment_weight", "total_variation": "tv_weight", "l2": "l2_weight"}
    return terms, CLASSES * sum(WEIGHTS[weight] * terms[name] for name, weight in names.items())


@pytest.mark.parametrize("kind", ["distance", "divergence"])
@pytest.mark.parametrize("which", ["class", "global"])
@pytest.mark.parametrize("jitter", [0, 2])
def test_a_step_is_the_gradient_of_the_equations(kind: str, which: str, jitter: int, double: None) -> None:
    fields = {"statistics": which, "moments": kind, "jitter": jitter, "settle_passes": 0, **WEIGHTS}
    method = lsgdfd(generator_optim=PLAIN_SGD, **fields)
    method._start_wave(tuple(range(CLASSES)), 0)
    assert method.members is not None
    bank = method.members.bank
    before = {name: p.detach().clone() for name, p in bank.named_parameters()}
    with torch.no_grad():
        plain = copy.deepcopy(bank)(method.members.latents(11, 0))
    untouched = copy.deepcopy(method)
    seen = shift_seen(method)
    metrics = method.step({})
    shifts = [(a, b) for a in range(-2, 3) for b in range(-2, 3) if torch.equal(plain.roll((a, b), (2, 3)), seen[0])]
    assert shifts
    assert shifts[0] == (0, 0) or jitter
    terms, loss = objective(untouched, kind, which == "global", shifts[0])
    for name, value in terms.items():
        torch.testing.assert_close(metrics[f"loss/{name}"], value.detach(), rtol=1e-6, atol=1e-9)
    assert untouched.members is not None
    loss.backward()
    for name, p in untouched.members.bank.named_parameters():
        assert p.grad is not None
        moved = before[name] - dict(bank.named_parameters())[name].detach()
        torch.testing.assert_close(moved, p.grad, rtol=1e-5, atol=1e-8, msg=name)


def test_all_images_of_a_step_are_shifted_alike_and_steps_differently() -> None:
    frozen = {"name": "sgd", "lr": 1e-30}
    method, still = lsgdfd(jitter=2, generator_optim=frozen), lsgdfd(jitter=0, generator_optim=frozen)
    seen, unmoved = shift_seen(method), shift_seen(still)
    advance(method, 6), advance(still, 6)
    found = set()
    for ours, theirs in zip(seen, unmoved, strict=True):
        shifts = [(a, b) for a in range(-4, 4) for b in range(-4, 4) if torch.equal(theirs.roll((a, b), (2, 3)), ours)]
        found.update(shifts)
    assert len(found) > 2
    assert {abs(pixels) for shift in found for pixels in shift} <= {0, 1, 2}


@pytest.mark.parametrize("which", ["class", "global"])
def test_the_generators_learn_their_classes(which: str) -> None:
    rows = advance(lsgdfd(pattern_setting(steps=40), statistics=which, tv_weight=0.003), 40)
    assert rows[0]["teacher/hit"] < 60
    assert sum(row["teacher/hit"] for row in rows[-5:]) / 5 > 90
    for name in ("loss/class", "loss/moments"):
        assert rows[-1][name] < 0.6 * rows[0][name], name


def test_the_finished_members_make_a_bank_whose_images_the_teacher_knows() -> None:
    method = lsgdfd(pattern_setting(steps=40), tv_weight=0.003)
    advance(method, 40)
    about = method.products_manifest()
    config = made_config("lsgdfd", generator=about["generator"]).generator
    bank = GeneratorBank(about["classes"], config, channels=about["channels"], size=about["size"])
    for cls in about["classes"]:
        bank.load_member(cls, method.products()[f"class_{cls:05d}"])
    labels = torch.arange(CLASSES).repeat(25)
    logits, _ = teacher_of_patterns()(bank.eval().mixed(torch.randn(100, 6), labels))
    assert (logits.argmax(1) == labels).float().mean() > 0.85
    assert about == {
        "generator": config.model_dump(), "channels": 1, "size": 8, "num_classes": 4, "mean": [0.3], "std": [0.4],
        "conditions": 0, "classes": [0, 1, 2, 3], "seed": 0, "steps": 40,
    }  # fmt: skip


def test_at_the_end_the_running_statistics_are_those_of_the_parameters_as_they_are(double: None) -> None:
    """Compared with long averages: few steps leave the running statistics of training far behind."""

    def error(passes: int) -> float:
        method = lsgdfd(pattern_setting(steps=10), settle_passes=passes)
        advance(method, 10)
        assert method.members is not None
        bank = method.members.bank
        kept = [buffer.clone() for buffer in bank.buffers()]
        with torch.no_grad():
            for _ in range(100):
                bank(torch.randn(CLASSES, EACH, bank.latent_dim))
        pairs = zip(kept, bank.buffers(), strict=True)
        return sum(float((a - b).norm() / b.norm()) for a, b in pairs)

    settled, trailing = error(100), error(0)
    assert settled < 0.5 * trailing


def test_settled_images_look_like_those_of_training() -> None:
    def difference(passes: int) -> float:
        method = lsgdfd(pattern_setting(steps=20, each=16), settle_passes=passes)
        advance(method, 20)
        assert method.members is not None
        bank, z = method.members.bank, torch.randn(CLASSES, 64, 6, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            as_in_training, by_running = copy.deepcopy(bank)(z), bank.eval()(z)
        return float((as_in_training - by_running).square().mean().sqrt() / as_in_training.std())

    assert difference(32) < 0.06
    assert difference(32) < 0.6 * difference(0)


def test_samples_are_held_out_take_turns_and_do_not_disturb() -> None:
    method, control = lsgdfd(), lsgdfd()
    assert method.sample(3, 0).shape == (3, 1, 8, 8)  # before anything was learnt
    advance(method, 2), advance(control, 2)
    first, again, other = method.sample(6, 1), method.sample(6, 1), method.sample(6, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert method.members is not None
    bank = copy.deepcopy(method.members.bank).eval()
    z = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(first, bank.mixed(z, torch.tensor([0, 1, 2, 3, 0, 1])).detach())
    assert advance(method, 3) == advance(control, 3)


class NoNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, SPEC.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


def test_what_cannot_be_matched_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="raykd statistics.*calibration.*global"):
        lsgdfd(pattern_setting(statistics=None))
    assert lsgdfd(pattern_setting(statistics=None), statistics="global")
    few = [(mean[:2], variance[:2]) for mean, variance in statistics(teacher_of_patterns())]
    with pytest.raises(UsageError, match=r"\(2, 8\).*\(4, 8\).*another teacher"):
        lsgdfd(pattern_setting(statistics=few))
    without = replace(pattern_setting(), networks={"teacher": Teacher(NoNorm(), channels=1, size=8)})
    with pytest.raises(UsageError, match="no BatchNorm"):
        lsgdfd(without)


@pytest.mark.parametrize(("workers", "wave"), [(1, 3), (2, 1), (5, None)])
def test_global_statistics_want_all_members_at_once(workers: int, wave: int | None) -> None:
    context = pattern_setting(world=World(0, workers, torch.device("cpu")), wave=wave)
    with pytest.raises(UsageError, match="all 4 generators at once"):
        lsgdfd(context, statistics="global")


def test_a_large_latent_must_be_meant() -> None:
    large = {**GENERATOR, "latent_dim": 129}
    with pytest.raises(ValidationError, match="latent_dim is 129.*128.*large_latent: true"):
        made_config("lsgdfd", generator=large)
    assert made_config("lsgdfd", generator=large, large_latent=True)
    assert made_config("lsgdfd", generator={**GENERATOR, "latent_dim": 128})
    assert made_config("lsgdfd_single", generator=large)


def test_the_teacher_is_untouched() -> None:
    context = pattern_setting()
    teacher = context.networks["teacher"]
    before = copy.deepcopy(teacher.state_dict())
    advance(lsgdfd(context), 3)
    assert_same(teacher.state_dict(), before)
    assert [p for p in teacher.parameters() if p.requires_grad or p.grad is not None] == []
