"""Whole calls of inversion into a pool, against the equations written here once more in plain float64."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.config.optim import Sgd
from raykd.data.image_pool import to_pixels
from raykd.distributed.world import mix
from raykd.errors import UsageError
from raykd.generators import initialise
from raykd.methods.pool_inversion import PoolInversion
from raykd.models.teacher import Teacher
from tests.methods.saved_images import Saved
from tests.methods.toy import BATCH, SPEC, assert_same, made_method, made_setting

LR, BETAS, LATENT_LR, STUDENT_LR = 2e-3, (0.5, 0.999), 0.01, 1e-2
DEFAULTS: dict[str, Any] = {
    "meta": "fomaml", "latent": "normal", "inner_steps": 3, "adversary": "masked_kl", "adversarial_weight": 1.1,
    "moments": "relative", "moment_weight": 2.0, "moment_memory": 0.9, "label_weight": 0.5, "balance_weight": 0.0,
    "tv_weight": 0.0, "contrast_weight": 0.0, "keep": "best", "augment": ("crop",), "batches_per_call": 1,
    "synthesis_batch": BATCH, "temperature": 20.0, "student_steps": 2, "warmup_calls": 0, "fresh_every": 0,
}  # fmt: skip
SWITCHES: list[dict[str, Any]] = [
    {},
    {"meta": "reptile"},
    {"meta": "none"},
    {"meta": "none", "fresh_every": 1, "generator_init": "normal"},
    {"adversary": "gap"},
    {"adversary": "none"},
    {"warmup_calls": 1},
    {"latent": "onehot"},
    {"latent": "classifier"},
    {"keep": "last", "latent_lr": 0.3},
    {"moments": "distance", "moment_memory": 0.5},
    {"moments": "divergence", "moment_memory": 0.0},
    {"moment_weight": 0.0, "balance_weight": 0.7, "tv_weight": 0.01},
    {"augment": ("crop", "flip")},
    {"augment": ()},
    {"synthesis_batch": 12, "batches_per_call": 2},
    {"contrast_weight": 0.8, "contrast_negatives": 5, "moment_weight": 0.5},
]


@pytest.fixture(autouse=True)
def precise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # what rounds to float32 would hide small mistakes
    yield
    torch.set_default_dtype(torch.float32)


def inversion(**fields: Any) -> PoolInversion:
    """With a student that learns by plain gradient descent."""
    context = made_setting(optim=Sgd(name="sgd", lr=STUDENT_LR, momentum=0.0), dropout=0.0)
    for network in context.networks.values():
        network.double()
    method = made_method("pool_inversion", context, **{**DEFAULTS, **fields})
    assert isinstance(method, PoolInversion)
    return method


class PlainAdam:
    """Adam as its paper has it."""

    def __init__(self, parameters: Sequence[Tensor], lr: float, betas: tuple[float, float] = BETAS) -> None:
        self.parameters, self.lr, self.betas, self.t = parameters, lr, betas, 0
        self.first, self.second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        self.t += 1
        one, two = self.betas
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m.copy_(one * m + (1 - one) * g)
            v.copy_(two * v + (1 - two) * g * g)
            p.sub_(self.lr * (m / (1 - one**self.t)) / ((v / (1 - two**self.t)).sqrt() + 1e-8))


def plain_views(images: Tensor, names: tuple[str, ...], seed: int, draw: int) -> Tensor:
    """Crops of images, one by one, as the seed has them."""
    generator = torch.Generator().manual_seed(mix(seed, 2, draw))
    pixels = images * SPEC.std[0] + SPEC.mean[0]
    if "crop" in names:
        corners = torch.randint(0, 9, (len(images), 2), generator=generator).tolist()
        padded = nn.functional.pad(pixels, (4, 4, 4, 4))
        pixels = torch.stack([p[:, y : y + 8, x : x + 8] for p, (y, x) in zip(padded, corners, strict=True)])
    if "flip" in names:
        turned = (torch.rand(len(images), generator=generator) < 0.5).tolist()
        pixels = torch.stack([p.flip(-1) if turn else p for p, turn in zip(pixels, turned, strict=True)])
    return (pixels - SPEC.mean[0]) / SPEC.std[0]


def plain_kl(teacher: Tensor, student: Tensor, t: float = 1.0) -> Tensor:
    p = (teacher / t).softmax(1)
    return (p * (p.log() - (student / t).log_softmax(1))).sum(1)


class Reference:
    """The state of a run, and a call of it."""

    def __init__(self, method: PoolInversion, fields: dict[str, Any]) -> None:
        self.told = {**DEFAULTS, **fields}
        self.method = method
        self.generator, self.student = copy.deepcopy(method.generator), copy.deepcopy(method.student)
        teacher = method.context.networks["teacher"]
        assert isinstance(teacher, Teacher)
        self.teacher = copy.deepcopy(teacher.network).eval()
        self.norm = next(layer for layer in self.teacher.modules() if isinstance(layer, nn.BatchNorm2d))
        self.outer = PlainAdam(list(self.generator.parameters()), LR * self.told["inner_steps"])
        self.average: tuple[Tensor, Tensor] | None = None
        self.fresh: dict[str, Tensor] = {}
        self.batches = 0
        self.stored: list[Tensor] = []
        if self.told["contrast_weight"]:
            self.head = copy.deepcopy(method.trained["contrast"])
            self.of_head = PlainAdam(list(self.head.parameters()), LR, (0.9, 0.999))
            self.known: list[tuple[Tensor, Tensor]] = []

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's logits, and what its BatchNorm is given."""
        seen: list[Tensor] = []
        handle = self.norm.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
        logits = self.teacher(images)
        handle.remove()
        return logits, seen[0]

    def call(self, number: int) -> None:
        told = self.told
        if told["fresh_every"]:
            self.generator.load_state_dict(self.fresh)
        for _ in range(told["batches_per_call"]):
            self.invert(number >= told["warmup_calls"] and told["adversary"] != "none")
        if number < told["warmup_calls"]:
            return
        for update in range(told["student_steps"]):
            count = (number - told["warmup_calls"]) * told["student_steps"] + update
            drawn = self.method.pool.draw(BATCH, count).images
            images = plain_views(drawn, told["augment"], mix(0, 43), count)
            t = told["temperature"]
            kd = t * t * plain_kl(self.teacher(images).detach(), self.student(images), t).mean()
            parameters = list(self.student.parameters())
            with torch.no_grad():
                for p, g in zip(parameters, torch.autograd.grad(kd, parameters), strict=True):
                    p.sub_(STUDENT_LR * g)

    def invert(self, adversarial: bool) -> None:
        told, batch = self.told, self.batches
        inner = copy.deepcopy(self.generator)
        labels = self.method._labels.draw(batch)
        latents = self.method._latents(batch, labels)
        weights = list(inner.parameters())
        adam = PlainAdam(weights, LR)
        of_latents = PlainAdam(latents.parameters, told.get("latent_lr", LATENT_LR))
        total = [torch.zeros_like(weight) for weight in weights]
        tried: list[tuple[float, Tensor, Any]] = []
        for step in range(told["inner_steps"]):
            images = inner(latents.vectors())
            draw = batch * told["inner_steps"] + step
            loss, moments, features = self.objective(images, labels, draw, adversarial)
            tried.append((loss.item(), images.detach(), features))
            heads = list(self.head.parameters()) if told["contrast_weight"] else []
            gradients = list(torch.autograd.grad(loss, [*weights, *latents.parameters, *heads]))
            total = [sum_ + g for sum_, g in zip(total, gradients, strict=False)]
            adam.step(gradients[: len(weights)])
            of_latents.step(gradients[len(weights) : len(weights) + len(latents.parameters)])
            if heads:
                self.of_head.step(gradients[-len(heads) :])
        if told["meta"] == "fomaml":
            self.outer.step(total)
        elif told["meta"] == "reptile":
            own = list(self.generator.parameters())
            self.outer.step([p.detach() - w.detach() for p, w in zip(own, weights, strict=True)])
        else:
            self.generator = inner
        r = told["moment_memory"]
        old = moments if self.average is None else self.average
        self.average = ((1 - r) * moments[0] + r * old[0], (1 - r) * moments[1] + r * old[1])
        chosen = min(tried, key=lambda one: one[0]) if told["keep"] == "best" else tried[-1]
        pixels = (chosen[1] * SPEC.std[0] + SPEC.mean[0]) * 255
        self.stored.append((pixels + 0.5).floor().clamp(0, 255))
        if told["contrast_weight"]:
            self.known += list(zip(*chosen[2], strict=True))
        self.batches += 1

    def objective(self, images: Tensor, labels: Tensor, draw: int, adversarial: bool) -> tuple[Tensor, Any, Any]:
        told = self.told
        shown = plain_views(images, told["augment"], 0, draw)
        t, inputs = self.see(shown)
        loss = -told["label_weight"] * t.log_softmax(1)[range(len(t)), labels].mean()
        mean, var = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3), unbiased=False)
        if told["moment_weight"]:
            r = told["moment_memory"] if self.average is not None else 0.0
            old = self.average if self.average is not None else (0.0, 0.0)
            m, v = (1 - r) * mean + r * old[0], (1 - r) * var + r * old[1]
            mu, sigma = self.norm.running_mean, self.norm.running_var
            assert mu is not None and sigma is not None
            of_mean, of_var = (m - mu).square().sum().sqrt(), (v - sigma).square().sum().sqrt()
            if told["moments"] == "relative":
                distance = of_mean / sigma.sum().sqrt() + of_var / sigma.square().sum().sqrt()
            elif told["moments"] == "distance":
                distance = of_mean + of_var
            else:
                v, sigma = v + 1e-5, sigma + 1e-5
                distance = ((sigma / v).log() + (v + (m - mu).square()) / sigma - 1).sum() / 2
            loss = loss + told["moment_weight"] * distance
        if adversarial:
            s = copy.deepcopy(self.student).eval()(shown)
            if told["adversary"] == "gap":
                c = (s.softmax(1) - t.softmax(1)).abs().amax(1).mean().item()
                rows = range(len(t))
                inner = -((t - s) / 2).log_softmax(1)[rows, labels].mean()
                inner = inner - 0.2 * (t + s).log_softmax(1)[rows, labels].mean()
                loss = loss + told["adversarial_weight"] * 0.5 * (1 - math.exp(-c)) * inner
            else:
                agree = [a == b for a, b in zip(s.argmax(1).tolist(), t.argmax(1).tolist(), strict=True)]
                each = plain_kl(t, s)
                alike = sum((each[row] for row, same in enumerate(agree) if same), torch.zeros(()))
                loss = loss - told["adversarial_weight"] * alike / len(t)
        if told["balance_weight"]:
            p = t.softmax(1).mean(0)
            loss = loss + told["balance_weight"] * (p * p.log()).sum()
        if told["tv_weight"]:
            x = images
            differences = (
                x[..., 1:] - x[..., :-1],
                x[..., 1:, :] - x[..., :-1, :],
                x[..., 1:, 1:] - x[..., :-1, :-1],
                x[..., 1:, :-1] - x[..., :-1, 1:],
            )
            loss = loss + told["tv_weight"] * sum(d.square().sum((1, 2, 3)).sqrt().mean() for d in differences)
        features = None
        if told["contrast_weight"]:
            contrast = self.method._contrast
            assert contrast is not None
            local = self.see(contrast.local_view(images, draw))[1].mean((2, 3))
            whole = inputs.mean((2, 3))
            features = local.detach().half().double(), whole.detach().half().double()
            loss = loss + told["contrast_weight"] * self.contrast(local, whole, draw)
        return loss, (mean.detach(), var.detach()), features

    def contrast(self, local: Tensor, whole: Tensor, draw: int) -> Tensor:
        """CMI's loss, row by row."""
        generator = torch.Generator().manual_seed(mix(mix(0, 44), 52, draw))
        chosen = torch.randperm(len(self.known), generator=generator)[: self.told["contrast_negatives"]].tolist()
        others = [self.known[row] for row in chosen]
        left = torch.stack([*local, *(one for one, _ in others)])
        right = torch.stack([*whole, *(one for _, one in others)])
        left, right = (v / v.square().sum(1, keepdim=True).sqrt() for v in (self.head(left), self.head(right)))
        each = [-((row * right.detach()).sum(1) / 0.1).log_softmax(0)[i] for i, row in enumerate(left)]
        n = len(local)
        loss = sum(each[:n], torch.zeros(())) / n
        return loss + sum(each[n:], torch.zeros(())) / len(others) if others else loss


@pytest.mark.parametrize("fields", SWITCHES, ids=str)
def test_calls_are_those_of_the_equations(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method = inversion(**fields)
    reference = Reference(method, fields)
    if fields.get("fresh_every"):  # what it is drawn as is for the generators' tests
        from raykd.methods import pool_inversion as module

        draws = initialise

        def recorded(network: nn.Module, how: Any, seed: int) -> None:
            draws(network, how, seed)
            reference.fresh = copy.deepcopy(network.state_dict())

        monkeypatch.setattr(module, "initialise", recorded)
    for call in range(3):
        before = copy.deepcopy(method.generator.state_dict())
        metrics = method.step({})
        reference.call(call)
        moved = [not torch.equal(before[name], tensor) for name, tensor in method.generator.state_dict().items()]
        assert any(moved)
        for name, network, plain in (
            ("generator", method.generator, reference.generator),
            ("student", method.student, reference.student),
        ):
            for key, value in network.state_dict().items():
                wanted = plain.state_dict()[key]
                torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-9, msg=f"{name} {key} of call {call}")
        assert ("loss/kd" in metrics) == (call >= reference.told["warmup_calls"])
        assert ("loss/moments" in metrics) == bool(reference.told["moment_weight"])
    part = method.new_images()
    assert part is not None
    assert torch.equal(part.pixels.double(), torch.cat(reference.stored))
    if reference.told["moment_weight"]:
        memory = method.state_dict()["memory"]
        assert len(memory) == bool(reference.told["moment_memory"])
        for ours, wanted in zip(memory, [reference.average], strict=False):
            assert wanted is not None
            torch.testing.assert_close(ours, list(wanted), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("slope", [1, -1])
def test_the_best_images_are_kept_and_no_later_step_changes_them(slope: int) -> None:
    """Where the loss rises with the steps the first images are the best, those of the meta-generator itself."""
    method = inversion(inner_steps=4, latent_lr=0.3)
    objective, made = method._objective, []

    def sloping(images: Tensor, labels: Tensor, draw: int, adversarial: bool) -> Any:
        made.append(images.detach().clone())
        loss, *others = objective(images, labels, draw, adversarial)
        return loss + slope * 1e3 * draw, *others

    method._objective = sloping  # type: ignore[method-assign]
    method.step({})
    part = method.new_images()
    assert part is not None
    wanted = [to_pixels(images, SPEC) for images in made]
    assert torch.equal(part.pixels, wanted[0 if slope > 0 else -1])
    assert not torch.equal(wanted[0], wanted[-1])


def test_teacher_and_student_see_the_same_views() -> None:
    method = inversion(augment=("crop", "flip"), inner_steps=2)
    seen: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    for role, images in seen.items():
        method.context.networks[role].register_forward_pre_hook(lambda _, args, to=images: to.append(args[0].detach()))
    method.invert(0)
    assert len(seen["student"]) == len(seen["teacher"]) == 2
    assert all(torch.equal(s, t) for s, t in zip(seen["student"], seen["teacher"], strict=True))
    assert not torch.equal(seen["student"][0], seen["student"][1])


def test_inversion_leaves_the_student_as_it_is() -> None:
    method = inversion(warmup_calls=2)
    before = copy.deepcopy(method.student.state_dict())
    method.step({})
    method.invert(5)  # with the adversary
    assert_same(method.student.state_dict(), before)
    assert method.student.training
    assert all(p.grad is None for p in method.student.parameters())


def test_a_fresh_generator_lasts_its_calls() -> None:
    """It is drawn once, at the first batch of the call."""
    method = inversion(meta="none", fresh_every=2, batches_per_call=2, inner_steps=1)
    starts: list[Tensor] = []
    load = method._inner.load_state_dict

    def recorded(state: dict[str, Tensor]) -> Any:
        starts.append(state["project.weight"].clone())
        return load(state)

    method._inner.load_state_dict = recorded  # type: ignore[method-assign, assignment]
    ends = []
    for _ in range(3):
        method.step({})
        ends.append(method.generator.state_dict()["project.weight"].clone())
    assert torch.equal(starts[2], ends[0]), "the second call goes on"
    assert not torch.equal(starts[1], starts[0])
    assert not torch.equal(starts[4], ends[1]), "the third begins anew"
    assert (starts[1] - starts[0]).abs().max() < 2 * LR, "its second batch does not"


def without_batch_norm() -> Teacher:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4))
    return Teacher(network, channels=1, size=8)


def test_a_teacher_without_batch_norm_is_inverted_without_moments() -> None:
    context = made_setting(dropout=0.0)
    context = replace(context, networks={**context.networks, "teacher": without_batch_norm()})
    with pytest.raises(UsageError, match=r"no BatchNorm layer.*method.moment_weight=0.*method.balance_weight=1"):
        made_method("pool_inversion", context)
    with pytest.raises(UsageError, match="method.contrast_weight=0"):
        made_method("pool_inversion", context, moment_weight=0, contrast_weight=1.0)
    method = made_method("pool_inversion", context, moment_weight=0, balance_weight=1.0, tv_weight=0.1)
    rows = [method.step({}) for _ in range(2)]
    assert {"loss/label", "loss/balance", "loss/tv", "loss/kd"} <= rows[1].keys()
    assert "loss/moments" not in rows[1]


def test_a_run_that_is_all_warm_up_is_refused() -> None:
    with pytest.raises(UsageError, match=r"schedule.steps=10 .*method.warmup_calls=10"):
        made_method("pool_inversion", warmup_calls=10)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"fresh_every": 1}, "never drawn anew"),
        ({"views": 2, "augment": ["flip"]}, "views are crops"),
        ({"meta": "none", "generator_optim": {"name": "adam", "lr": 1e-3, "warmup_steps": 3}}, "rate is constant"),
    ],
)
def test_switches_that_exclude_each_other_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made_method("pool_inversion", **fields)


def test_the_contrasts_memory_is_continued() -> None:
    """The head and what it remembers are in the state, and bounded."""
    fields = {"contrast_weight": 0.5, "contrast_memory": 20, "contrast_negatives": 8}
    whole = inversion(**fields)
    for _ in range(2):
        whole.step({})
    state, images = copy.deepcopy(whole.state_dict()), whole.new_images()
    assert state["contrast"]["features"].dtype == torch.float16
    assert len(state["contrast"]["features"]) == 2 * BATCH
    other = inversion(**fields)
    other.load_state_dict(state)
    assert images is not None
    other.load_images(Saved([images]))
    spoilt = {**state, "pool": {**state["pool"], "batches": 10**15}}
    third = inversion(**fields)
    third.load_state_dict(copy.deepcopy(spoilt))
    with pytest.raises(ValueError, match="1000000000000000 batches, and 2 calls make 2"):
        third.load_images(Saved([images]))
    first, second = whole.step({}), other.step({})
    assert_same(first, second)
    assert_same(whole.state_dict(), other.state_dict())
    assert len(whole.state_dict()["contrast"]["features"]) == 20
    assert whole.checkpoint_bytes() > inversion().checkpoint_bytes() + 20 * 2 * 8 * 2 - 1


def test_without_contrast_nothing_of_it_is_there() -> None:
    method = inversion()
    method.step({})
    assert method.trained.keys() == {"student", "generator"}
    assert "contrast" not in method.state_dict()
