"""Blended images: student and teacher see the same ones, and both labels count by their shares."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.config.optim import Sgd
from raykd.data.mixing import Mixed, mix_images
from raykd.distributed.world import World, mix
from raykd.methods.base import MethodContext
from raykd.methods.blind_kd import BlindKd
from raykd.methods.kd import Kd
from raykd.models.teacher import Teacher
from raykd.spec import Batch
from tests.methods.test_teacher_free import RATE, ROWS, Head, K
from tests.methods.toy import SPEC, made_config

_MIX = 31
SEED = 5


def blending(**fields: Any) -> tuple[Kd, dict[str, list[Tensor]]]:
    """A method, and where the images are kept that its networks see."""
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {"student": Head(), "teacher": Teacher(Head(), channels=1, size=8)}
    context = MethodContext(
        spec=replace(SPEC, num_classes=K, class_names=()),
        world=World.alone(),
        networks=networks,
        student_optim=Sgd(name="sgd", lr=RATE, momentum=0.0),
        steps=4,
        global_batch=ROWS,
        seed=SEED,
        compiler=lambda network: network,
    )
    method, seen = Kd(made_config("kd", **fields), context), dict[str, list[Tensor]]()
    for role, network in networks.items():
        seen[role] = kept = list[Tensor]()
        network.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
    return method, seen


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, K, (ROWS,), generator=generator)
    # Of another teacher: who uses these in spite of blending is found out.
    return Batch(torch.randn(ROWS, 1, 8, 8, generator=generator), labels, torch.randn(ROWS, K, generator=generator))


def expected(kind: Any, step: int) -> Mixed:
    return mix_images(batch().images, kind, 1.0, mix(SEED, _MIX, step))


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_the_teacher_is_asked_of_what_the_student_sees(kind: str) -> None:
    method, seen = blending(mix=kind, alpha=0.3, temperature=20.0, multiplier=1 / 400)
    before = {name: p.detach().double() for name, p in method.student.named_parameters()}
    metrics = method.step({"train": batch()})
    mixed = expected(kind, 0)
    assert 0 < mixed.own < 1
    assert torch.equal(seen["student"][0], mixed.images)
    assert torch.equal(seen["teacher"][0], mixed.images)
    pixels = mixed.images.flatten(1).double()
    weight, bias = before["linear.weight"], before["linear.bias"]
    answers = method.context.networks["teacher"].get_submodule("network")(mixed.images).double()
    logits = (pixels @ weight.T + bias).requires_grad_()
    p, q = (answers / 20).softmax(1), (logits / 20).log_softmax(1)
    divergence = (p * (p.log() - q)).sum(1).mean()  # without T^2
    labels, rows = batch().labels, torch.arange(ROWS)
    log_p = logits.log_softmax(1)
    entropy = -(mixed.own * log_p[rows, labels] + (1 - mixed.own) * log_p[rows, labels[mixed.partners]]).mean()
    torch.testing.assert_close(metrics["loss/kd"].double(), 400 * divergence, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(metrics["loss/cross_entropy"].double(), entropy, rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(0.3 * divergence + 0.7 * entropy, logits)
    moved = (bias - dict(method.student.named_parameters())["linear.bias"].detach().double()) / RATE
    torch.testing.assert_close(moved, slope.sum(0), rtol=1e-3, atol=1e-6)


def test_every_step_blends_in_its_own_way() -> None:
    method, seen = blending(mix="cutmix")
    for _ in range(3):
        method.step({"train": batch()})
    for step in range(3):
        assert torch.equal(seen["student"][step], expected("cutmix", step).images)
    assert not torch.equal(seen["student"][0], seen["student"][1])


def test_answers_known_beforehand_serve_whole_images_only() -> None:
    method, seen = blending()
    method.step({"train": batch()})
    assert torch.equal(seen["student"][0], batch().images)
    assert seen["teacher"] == []
    assert Kd.asks_teacher_of_stream(made_config("kd"))
    assert not Kd.asks_teacher_of_stream(made_config("kd", mix="cutmix"))
    assert BlindKd.asks_teacher_of_stream(made_config("blind_kd"))
