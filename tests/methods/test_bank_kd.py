"""Distillation from a bank: what the mixture holds, what the step computes, what the bank must have."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.config.optim import Sgd
from raykd.distributed.world import mix
from raykd.errors import UsageError
from raykd.generators import EVERY, GeneratorBank, GeneratorConfig
from raykd.methods.bank_kd import BankKd
from raykd.models.compute import forward_macs
from tests.methods.toy import BATCH, SPEC, advance, assert_same, made_bank, made_method, made_setting, made_teacher


def bank_kd(bank: GeneratorBank | None = None, *, batch: int = BATCH) -> BankKd:
    """With plain gradient descent at rate 1, so that a step is minus the gradient."""
    context = made_setting(optim=Sgd(name="sgd", lr=1.0, momentum=0.0), dropout=0.0)
    networks = {**context.networks, "bank": bank or made_bank()}
    method = made_method("bank_kd", replace(context, networks=networks, global_batch=batch), temperature=2.0)
    assert isinstance(method, BankKd)
    return method


def seen_by_teacher(method: BankKd) -> list[Tensor]:
    """The images of every step from now on."""
    images: list[Tensor] = []
    method.context.networks["teacher"].register_forward_pre_hook(lambda _, args: images.append(args[0]))
    return images


def test_a_step_is_the_gradient_of_the_equation() -> None:
    method, bank, teacher = bank_kd(), made_bank().eval(), made_teacher().network
    student = copy.deepcopy(method.student)
    z = torch.randn(BATCH, bank.latent_dim, generator=torch.Generator().manual_seed(mix(0, 0)))
    labels = method.labels(0)
    with torch.no_grad():
        # One image at a time: a frozen generator does not look at the rest of the batch.
        images = torch.cat([bank.mixed(z[i : i + 1], labels[i : i + 1]) for i in range(BATCH)])
        soft = (teacher(images) / 2).softmax(1)
    loss = 4 * (soft * (soft.log() - (student(images) / 2).log_softmax(1))).sum(1).mean()
    loss.backward()
    rows = advance(method, 1)
    for before, after in zip(student.parameters(), method.student.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(before - after, before.grad, rtol=1e-3, atol=1e-5)
    hits = (soft.argmax(1) == labels).float().mean().item()
    assert rows == [{"loss/kd": pytest.approx(loss.item(), rel=1e-4), "teacher/hit": pytest.approx(100 * hits)}]


@pytest.mark.parametrize(("batch", "workers"), [(8, 2), (12, 3), (30, 2), (6, 3)])
def test_every_workers_rows_hold_all_classes_evenly(batch: int, workers: int) -> None:
    method = bank_kd(batch=batch)
    size = batch // workers
    for step in range(5):
        for rows in method.labels(step).split(size):
            counts = torch.bincount(rows, minlength=SPEC.num_classes)
            # Two lists of all classes may be cut, one at either end.
            assert counts.min() >= size // SPEC.num_classes - 1
            assert counts.max() <= -(-size // SPEC.num_classes) + 1


def test_all_classes_come_equally_often_whatever_the_batch() -> None:
    labels = [bank_kd(batch=6).labels(step) for step in range(4)]
    assert torch.bincount(torch.cat(labels)).tolist() == [6] * SPEC.num_classes
    lists = torch.cat(labels).view(-1, SPEC.num_classes)
    assert all(sorted(order) == [0, 1, 2, 3] for order in lists.tolist())
    assert len({tuple(order) for order in lists.tolist()}) > 1


def test_the_step_alone_decides_the_images() -> None:
    whole, resumed = bank_kd(), bank_kd()
    images, later = seen_by_teacher(whole), seen_by_teacher(resumed)
    advance(whole, 3)
    resumed.steps_done = 2
    advance(resumed, 1)
    assert torch.equal(images[2], later[0])
    assert not torch.equal(images[1], images[2])


def test_the_bank_is_untouched_and_not_in_the_checkpoint() -> None:
    bank = made_bank()
    before = copy.deepcopy(bank.state_dict())
    method = bank_kd(bank)
    assert not bank.training
    advance(method, 3)
    assert_same(bank.state_dict(), before)
    assert list(method.state_dict()["trained"]) == ["student"]


def test_samples_go_through_the_classes_in_order() -> None:
    method, bank = bank_kd(), made_bank().eval()
    images = method.sample(10, 1)
    z = torch.randn(10, bank.latent_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for index in range(10):
            alone = bank.mixed(z[index : index + 1], torch.tensor([index % 4]))
            torch.testing.assert_close(images[index : index + 1], alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(images, method.sample(10, 1))
    assert not torch.equal(images, method.sample(10, 2))


def test_a_bank_in_bfloat16_makes_nearly_the_same_images() -> None:
    exact, rounded = bank_kd().sample(12, 1), bank_kd(made_bank().to(torch.bfloat16)).sample(12, 1)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


def every(conditions: int) -> GeneratorBank:
    config = GeneratorConfig(latent_dim=6, width=8)
    bank = GeneratorBank((EVERY,), config, channels=1, size=8, conditions=conditions)
    bank.initialise(0)
    return bank


def test_one_generator_for_all_classes_serves_and_is_held_to_a_class_only_if_told_one() -> None:
    assert advance(bank_kd(every(0)), 1)[0].keys() == {"loss/kd"}
    assert advance(bank_kd(every(4)), 1)[0].keys() == {"loss/kd", "teacher/hit"}


def test_a_class_without_a_generator_is_named() -> None:
    with pytest.raises(UsageError, match=r"no generator for 2 of the 4 classes, the first of them 1"):
        bank_kd(made_bank((0, 3)))


def test_jitter_changes_brightness_and_contrast_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    for jitter in (0.0, 0.5):
        method = made_method("bank_kd", jitter=jitter)
        assert isinstance(method, BankKd)
        ask = method._teacher

        def noted(images: Tensor, ask: Any = ask) -> Any:
            seen.append(images)
            return ask(images)

        monkeypatch.setattr(method, "_teacher", noted)
        method.step({})
    plain, shown = (images.flatten(2) for images in seen)
    contrast = shown.std(2) / plain.std(2)
    brightness = shown.mean(2) - contrast * plain.mean(2)
    assert torch.allclose(shown, contrast[..., None] * plain + brightness[..., None], atol=1e-5)
    assert 0.5 <= contrast.min() < contrast.max() <= 1.5
    assert 0.1 < brightness.std() < 1.0


def test_making_images_counts_as_compute() -> None:
    bank = made_bank().eval()
    method = bank_kd(bank)
    advance(method, 2)  # whose compiler counts no network
    of_all_members = forward_macs(bank, torch.zeros(len(bank.classes), BATCH, bank.latent_dim))
    assert method.context.compute.macs == pytest.approx(2 * of_all_members / len(bank.classes)) != 0
