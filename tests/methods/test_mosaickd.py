"""MosaicKD's step against the paper's equations, written here once more with nothing but softmax and logarithms."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.config.optim import Sgd
from raykd.methods.mosaickd import MosaicKd
from raykd.spec import Batch
from tests.methods.toy import BATCH, assert_same, made_batches, made_method, made_setting, made_teacher

PLAIN_SGD = {"name": "sgd", "lr": 1.0, "momentum": 0.0}
SWITCHES: list[dict[str, Any]] = [
    {},
    {"temperature": 3.0},
    {"align": "cross_entropy"},
    {"student_statistics": "published"},
    {"local_weight": 0.3, "align_weight": 0.2, "adversarial_weight": 2.0, "balance_weight": 5.0},
    {"local_weight": 0.0},
    {"align_weight": 0.0},
    {"adversarial_weight": 0.0},
    {"balance_weight": 0.0},
    {"patch": 4},
    {"patch": "image", "local_weight": 64.0},
]


def mosaic(**fields: Any) -> MosaicKd:
    """In float64 and with plain gradient descent at rate 1, so that a step is minus the gradient."""
    context = made_setting(optim=Sgd(name="sgd", lr=1e-3, momentum=0.0), dropout=0.0)
    context.networks["student"].double()
    context.networks["teacher"].double()
    optims = {"generator_optim": PLAIN_SGD, "discriminator_optim": PLAIN_SGD}
    method = made_method("mosaickd", context, **{**optims, **fields})
    assert isinstance(method, MosaicKd)
    for network in method.trained.values():
        network.double()
    return method


def batches_of(method: MosaicKd) -> dict[str, Batch]:
    return {role: batch._replace(images=batch.images.double()) for role, batch in made_batches(method, 0).items()}


def latents(method: MosaicKd, draw: int) -> Tensor:
    return method.world.randn(BATCH, 6, seed=method.context.seed, step=draw).double()


def binary_cross_entropy(logits: Tensor, target: float) -> Tensor:
    p = 1 / (1 + (-logits).exp())
    return -(target * p.log() + (1 - target) * (1 - p).log()).sum() / len(logits)


def divergence(teacher: Tensor, student: Tensor, t: float = 1.0) -> Tensor:
    p = (teacher / t).softmax(1)
    return t * t * (p * (p.log() - (student / t).log_softmax(1))).sum() / len(p)


@torch.no_grad()
def descend(network: nn.Module, loss: Tensor, lr: float) -> None:
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.sub_(gradient, alpha=lr)


@pytest.mark.parametrize("fields", SWITCHES, ids=str)
def test_a_step_is_that_of_the_equations(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # what rounds to float32 would hide small mistakes
    try:
        method = mosaic(**fields)
        told = {"local_weight": 1.0, "align_weight": 1.0, "adversarial_weight": 1.0, "balance_weight": 14.427, **fields}
        generator, discriminator, student = (
            copy.deepcopy(method.trained[role]) for role in ("generator", "discriminator", "student")
        )
        teacher = made_teacher().network.double()
        batches = batches_of(method)
        metrics = method.step(batches)

        images = generator(latents(method, 0))
        w = told["local_weight"]
        if w:
            d_loss = binary_cross_entropy(discriminator(images.detach()), 0.0)
            d_loss = (d_loss + binary_cross_entropy(discriminator(batches["patches"].images), 1.0)) / 2
            descend(discriminator, w * d_loss, 1.0)
        p = teacher(images).softmax(1)
        mean = p.mean(0)
        align = -(p * p.log()).sum(1).mean() if fields.get("align") != "cross_entropy" else -p.amax(1).log().mean()
        loss = told["align_weight"] * align + told["balance_weight"] * (mean * mean.log()).sum()
        if told["adversarial_weight"]:
            asked = student if fields.get("student_statistics") == "published" else copy.deepcopy(student)
            through = asked(images)
            for parameter, own in zip(asked.parameters(), student.parameters(), strict=True):
                assert torch.equal(parameter, own)
            loss = loss - told["adversarial_weight"] * divergence(teacher(images), through)
        if w:
            loss = loss + w * binary_cross_entropy(discriminator(images), 1.0)
        descend(generator, loss, 1.0)
        for draw, other in enumerate(batches["ood"].images.split(BATCH), start=1):
            with torch.no_grad():
                shown = torch.cat([generator(latents(method, draw)), other])
                answers = teacher(shown)
            kd = divergence(answers, student(shown), fields.get("temperature", 1.0))
            descend(student, kd, 1e-3)
        for name, ours in (("generator", generator), ("discriminator", discriminator), ("student", student)):
            for key, value in method.trained[name].state_dict().items():
                torch.testing.assert_close(value, ours.state_dict()[key], rtol=1e-6, atol=1e-9, msg=f"{name} {key}")
        torch.testing.assert_close(metrics["loss/kd"], kd, rtol=1e-6, atol=1e-9)
        assert ("loss/local" in metrics) == ("loss/discriminator" in metrics) == bool(w)
        assert ("loss/adversarial" in metrics) == bool(told["adversarial_weight"])
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_generators_images_leave_no_trace_in_the_students_statistics() -> None:
    """The published behaviour lets them in; both normalise by the batch, so that the gradients agree."""
    moved: dict[str, bool] = {}
    generators: dict[str, dict[str, Tensor]] = {}
    for kind in ("clean", "published"):
        method = mosaic(student_statistics=kind)
        norm = next(m for m in method.student.modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.running_mean is not None
        before = norm.running_mean.clone()
        method._update_generator(method.generator(latents(method, 0)))
        moved[kind] = not torch.equal(norm.running_mean, before)
        assert norm.track_running_stats
        generators[kind] = method.generator.state_dict()
    assert moved == {"clean": False, "published": True}
    assert_same(generators["clean"], generators["published"])


def test_a_step_takes_a_batch_for_each_update_of_the_student() -> None:
    method = made_method("mosaickd", student_steps=3)
    assert {role: len(batch.images) for role, batch in made_batches(method, 0).items()} == {
        "ood": 3 * BATCH,
        "patches": BATCH,
    }
    assert method.images_per_step == 3 * 2 * BATCH
    method.step(made_batches(method, 0))
    counts = {role: updater.state_dict()["step"] for role, updater in method.updaters.items()}
    assert counts == {"student": 3, "generator": 1, "discriminator": 1}


def test_the_students_rate_falls_over_its_own_updates() -> None:
    context = replace(made_setting(), steps=2)
    cosine = {"name": "sgd", "lr": 1.0, "schedule": {"name": "cosine"}}
    optim = Sgd.model_validate(cosine)
    method = made_method("mosaickd", replace(context, student_optim=optim), student_steps=4)
    for step in range(2):
        method.step(made_batches(method, step))
    (group,) = method.updaters["student"]._optimizer.param_groups
    assert group["lr"] == pytest.approx(optim.lr_at(7, 8))
