"""The rounds of the game against the equations, written here once more with nothing but softmax and logarithms."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from raykd.config.optim import Sgd
from raykd.distributed.updater import Updater
from raykd.errors import UsageError
from raykd.methods.adversarial import Adversarial
from raykd.models.teacher import Teacher
from tests.methods.patterns import double_precision
from tests.methods.toy import (
    BATCH,
    STEPS,
    Plain,
    advance,
    assert_same,
    made_config,
    made_method,
    made_setting,
    made_teacher,
)

RATE = 0.02
PLAIN_SGD = {"name": "sgd", "lr": RATE, "momentum": 0.0}
DFAD: dict[str, Any] = {}
ZSKT = {
    "first": "generator", "latents": "shared", "disagreement": "kl", "student_loss": "kl", "attention_weight": 30.0,
    "clip_norm": 0.05,
}  # fmt: skip
DFQ = {
    "disagreement": "kl", "student_loss": "kl", "first": "generator", "moment_weight": 1.0, "onehot_weight": 1.0,
    "balance_weight": 5.0, "student_statistics": "running",
}  # fmt: skip
CUDFKD = {
    **DFQ, "student_loss": "l1", "disagreement": "masked_kl", "disagreement_weight": 0.0,
    "disagreement_temperature": 3.0, "balance_temperature": 20.0, "ramp": {"growth": 2.0, "begin": 0.1, "end": 0.3},
    "self_paced": {"start": 0.5, "growth": 0.1},
}  # fmt: skip
SWITCHES = {
    "dfad": DFAD,
    "zskt": ZSKT,
    "dfq": DFQ,
    "cudfkd": CUDFKD,
    "images by themselves": {**CUDFKD, "self_paced": {"start": 1.0, "growth": 0.0, "per": "image"}},
    "three of the generator": {"generator_updates": 3, "student_updates": 1, "onehot_weight": 0.5},
    "shared from the student on": {"latents": "shared", "student_updates": 3},
    "traces": {"student_statistics": "remembered", "student_loss": "kl", "temperature": 4.0},
    "pixels of a sigmoid": {"generator_architecture": "mosaic"},
    "no adversary": {"disagreement_weight": 0.0, "balance_weight": 1.0},
}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # what rounds to float32 would hide small mistakes
    with double_precision():
        yield


def made(**fields: Any) -> Adversarial:
    """With plain gradient descent, so that a step is the gradient; without dropout."""
    context = made_setting(optim=Sgd(name="sgd", lr=RATE, momentum=0.0), dropout=0.0)
    method = made_method("adversarial", context, **{"generator_optim": PLAIN_SGD, **fields})
    assert isinstance(method, Adversarial)
    for network in (*method.trained.values(), context.networks["teacher"]):
        network.to(torch.get_default_dtype())
    return method


def divergence(teacher: Tensor, student: Tensor, t: float = 1.0) -> Tensor:
    p = (teacher / t).softmax(1)
    return t * t * (p * (p.log() - (student / t).softmax(1).log())).sum(1)


@torch.no_grad()
def descend(network: nn.Module, loss: Tensor, clip: float | None) -> None:
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
    length = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    factor = RATE * (1 if clip is None else min(1, clip / length))
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.sub_(gradient, alpha=factor)


class Game:
    """Generator, student and teacher of a method before its first step, and the game by the paper."""

    def __init__(self, method: Adversarial, fields: dict[str, Any]) -> None:
        self.c: dict[str, Any] = {**made_config("adversarial").model_dump(), **fields}
        self.generator: Any = copy.deepcopy(method.generator)
        self.student: Any = copy.deepcopy(method.student)
        self.teacher: Any = made_teacher().network.to(torch.get_default_dtype())
        self.method = method
        self.losses: dict[str, Tensor] = {}

    def latents(self, step: int, update: int) -> Tensor:
        g, k = self.c["generator_updates"], self.c["student_updates"]
        number = step if self.c["latents"] == "shared" else step * (g + k) + update
        return self.method.world.randn(BATCH, 6, seed=0, step=number).to(torch.get_default_dtype())

    def round(self, step: int) -> None:
        turns = [self.generators, self.students]
        for turn in turns if self.c["first"] == "generator" else reversed(turns):
            turn(step)

    def generators(self, step: int) -> None:
        c = self.c
        for update in range(c["generator_updates"]):
            images = self.generator(self.latents(step, update))
            logits, p = self.teacher(images), self.teacher(images).softmax(1)
            loss = torch.zeros(())
            ramp, weight = c["ramp"], c["disagreement_weight"]
            if ramp:
                weight += ramp["growth"] * max(0, min(step, ramp["end"] * STEPS) - ramp["begin"] * STEPS)
            if c["disagreement_weight"] or ramp:
                asked = copy.deepcopy(self.student) if c["student_statistics"] != "remembered" else self.student
                answers = asked.train(c["student_statistics"] != "running")(images)
                each = {
                    "l1": (logits - answers).abs().mean(1),
                    "kl": divergence(logits, answers, c["disagreement_temperature"]),
                    "masked_kl": divergence(logits, answers, c["disagreement_temperature"])
                    * (logits.argmax(1) == answers.argmax(1)),
                }[c["disagreement"]]
                self.losses["disagreement"] = -each.sum() / BATCH
                loss = loss + weight * self.losses["disagreement"]
            if c["moment_weight"]:
                seen, norm = self.teacher.body[0](images), self.teacher.body[1]
                columns = seen.transpose(0, 1).flatten(1)
                distance = (columns.mean(1) - norm.running_mean).norm()
                self.losses["moments"] = distance + (columns.var(1, unbiased=False) - norm.running_var).norm()
                loss = loss + c["moment_weight"] * self.losses["moments"]
            if c["onehot_weight"]:
                loss = loss - c["onehot_weight"] * p.amax(1).log().mean()
            if c["balance_weight"]:
                q = (logits / c["balance_temperature"]).softmax(1).mean(0)
                loss = loss + c["balance_weight"] * (q * q.log()).sum()
            descend(self.generator, loss, c["clip_norm"])

    def students(self, step: int) -> None:
        c = self.c
        for update in range(c["student_updates"]):
            number = step * c["student_updates"] + update
            with torch.no_grad():
                images = self.generator(self.latents(step, c["generator_updates"] + update))
                logits = self.teacher(images)
            maps = self.student.body[:3](images)
            answers = self.student.head(self.student.hidden(maps.flatten(1)).relu())
            l1 = c["student_loss"] == "l1"
            each = (logits - answers).abs().mean(1) if l1 else divergence(logits, answers, c["temperature"])
            v = torch.ones(())
            if c["self_paced"]:
                h = c["self_paced"]["start"] + c["self_paced"]["growth"] * number
                hard = each.detach() if c["self_paced"].get("per") == "image" else each.detach().mean()
                v = (1 + math.exp(-h)) / (1 + (hard - h).exp())
            loss = (v * each).mean()
            if c["attention_weight"]:
                loss = loss + c["attention_weight"] * self.attention(maps, self.teacher.body[:3](images))
            self.losses["kd"] = each.mean()
            descend(self.student, loss, c["clip_norm"])

    def attention(self, *maps: Tensor) -> Tensor:
        """Of the only stage: the maps of 3 x 3 before they are flattened."""
        energies = [one.square().mean(1).flatten(1) for one in maps]
        student, teacher = [energy / energy.norm(dim=1, keepdim=True) for energy in energies]
        loss: Tensor = (student - teacher.detach()).square().mean()
        return loss


@pytest.mark.parametrize("fields", SWITCHES.values(), ids=SWITCHES)
def test_rounds_are_those_of_the_equations(fields: dict[str, Any], double: None) -> None:
    method = made(**fields)
    game = Game(method, {"student_updates": 2, **fields})
    for step in range(4):
        metrics = method.step({})
        game.round(step)
    for name, ours in (("generator", game.generator), ("student", game.student)):
        for key, value in method.trained[name].state_dict().items():
            torch.testing.assert_close(value, ours.state_dict()[key], rtol=1e-6, atol=1e-9, msg=f"{name} {key}")
    for name, value in game.losses.items():
        torch.testing.assert_close(metrics[f"loss/{name}"], value, rtol=1e-6, atol=1e-9)
    assert ("loss/disagreement" in metrics) == (fields != SWITCHES["no adversary"])
    assert ("loss/attention" in metrics) == (fields is ZSKT)


def test_the_switches_are_different_games() -> None:
    states = []
    for fields in SWITCHES.values():
        method = made(**fields)
        advance(method, 4)
        states.append(method.student.state_dict()["head.weight"])
    assert all(not torch.equal(a, b) for i, a in enumerate(states) for b in states[:i])


@pytest.mark.parametrize(("g", "k"), [(1, 5), (2, 3)])
@pytest.mark.parametrize("first", ["student", "generator"])
def test_who_learns_how_often_and_when(g: int, k: int, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = made(generator_updates=g, student_updates=k, first=first)
    order: list[str] = []
    original = Updater.step

    def noted(updater: Updater, gradients: Any) -> None:
        order.extend(name for name, own in method.updaters.items() if own is updater)
        original(updater, gradients)

    monkeypatch.setattr(Updater, "step", noted)
    advance(method, 2)
    turns = {"student": ["student"] * k, "generator": ["generator"] * g}
    other = "generator" if first == "student" else "student"
    assert order == 2 * (turns[first] + turns[other])
    assert (method.updaters["student"].total_steps, method.updaters["generator"].total_steps) == (k * STEPS, g * STEPS)
    assert method.images_per_step == k * BATCH


def test_shared_latents_are_made_and_shown_to_the_teacher_once() -> None:
    calls: list[str] = []

    def counted(network: nn.Module) -> Any:
        def call(*args: Any) -> Any:
            calls.append(type(network).__name__)
            return network(*args)

        return call

    method = made_method("adversarial", made_setting(compiler=counted), student_updates=5, latents="shared")
    advance(method, 1)
    assert {name: calls.count(name) for name in set(calls)} == {"Dcgan": 2, "Teacher": 2, "Plain": 6}


def test_the_masked_adversary_moves_nothing_where_none_agree(double: None) -> None:
    """The generator's gradient is that of the rows that agree, here of none and of all."""
    method = made(disagreement="masked_kl", student_updates=1)
    student: Any = method.student
    teacher: Any = method.context.networks["teacher"].network
    with torch.no_grad():
        student.head.weight.zero_()
        student.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0]))
        teacher.head.bias.copy_(torch.tensor([500.0, 0.0, 0.0, 0.0]))
    before = copy.deepcopy(method.generator.state_dict())
    method._teach_generator(0)
    assert_same(method.generator.state_dict(), before)
    with torch.no_grad():
        teacher.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 60.0]))
    method._teach_generator(1)
    with pytest.raises(AssertionError):
        assert_same(method.generator.state_dict(), before)


@pytest.mark.parametrize(("statistics", "moved"), [("clean", False), ("running", False), ("remembered", True)])
def test_the_generators_update_leaves_the_student_alone(statistics: str, moved: bool) -> None:
    method = made(student_statistics=statistics)
    before = copy.deepcopy(method.student.state_dict())
    method._teach_generator(0)
    assert method.student.training
    changed = {key for key, value in method.student.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == ({"body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"} if moved else set())


class NoNorm(Plain):
    def __init__(self) -> None:
        super().__init__(8)
        self.body[1] = nn.Identity()


def test_a_teacher_without_batch_norm_teaches_where_no_moments_count() -> None:
    torch.manual_seed(0)
    teacher = Teacher(NoNorm(), channels=1, size=8)
    context = made_setting(teacher=made_teacher())
    context = replace(context, networks={**context.networks, "teacher": teacher})
    for fields in (DFAD, ZSKT, {**DFQ, "moment_weight": 0.0}):
        rows = advance(made_method("adversarial", context, **fields), 3)
        assert all(math.isfinite(value) for row in rows for value in row.values())
    wanted = r"method.moment_weight is 1, and the teacher has no BatchNorm layer .*set method.moment_weight=0 \(as in"
    with pytest.raises(UsageError, match=wanted):
        made_method("adversarial", context, **DFQ)


def test_what_is_needed_of_the_teacher_depends_on_the_configuration() -> None:
    configs = {name: made_config("adversarial", **fields) for name, fields in SWITCHES.items()}
    needing = {name for name, config in configs.items() if Adversarial.needs_statistics(config)}
    assert needing == {"dfq", "cudfkd", "images by themselves"}
    assert not Adversarial.needs_statistics(None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"disagreement_weight": 0.0}, "the generator has nothing to learn: give disagreement_weight, ramp, moment_w"),
        ({"generator_architecture": "mosaic", "output_range": "pixels"}, "mosaic makes pixels by itself"),
        ({"temperature": 4.0}, "student_loss: l1 compares logits as they are: leave out temperature"),
        ({"disagreement_temperature": 3.0}, "disagreement: l1 compares logits as they are: leave out disagreement_t"),
        ({"ramp": {"growth": 1.0, "begin": 0.7, "end": 0.7}}, r"ramp.begin 0.7 must be below ramp.end 0.7"),
    ],
)
def test_what_means_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made_config("adversarial", **fields)


@pytest.mark.parametrize("fields", [ZSKT, CUDFKD], ids=["zskt", "cudfkd"])
def test_the_teacher_is_untouched_and_no_graph_stays(fields: dict[str, Any]) -> None:
    method = made(**fields)
    teacher = method.context.networks["teacher"]
    before = copy.deepcopy(teacher.state_dict())
    advance(method, 2)
    assert_same(teacher.state_dict(), before)
    parameters = [p for network in (*method.trained.values(), teacher) for p in network.parameters()]
    assert all(p.grad is None for p in parameters)
