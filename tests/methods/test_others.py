"""The methods of one equation, each against its equation; and what holds for every method."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.config.optim import Adam, Sgd
from raykd.methods import METHODS, Method
from tests.methods.toy import (
    BATCH,
    METHOD_CONFIGS,
    advance,
    assert_same,
    made_batches,
    made_method,
    made_setting,
    made_teacher,
)


def tempered(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    soft = (teacher / t).softmax(1)
    return t * t * (soft * (soft.log() - (student / t).log_softmax(1))).sum(1).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(1)[torch.arange(len(labels)), labels].mean()


def objective(name: str, method: Method, fields: dict[str, Any], student: Any) -> Tensor:
    if name == "noise":
        images = method.world.randn(BATCH, 1, 8, 8, seed=0, step=0)
        return tempered(student(images), made_teacher().network(images), fields["temperature"])
    images, labels, _ = made_batches(method, 0)["train"]
    logits = student(images)
    plain = cross_entropy(logits, labels)
    if name == "supervised":
        return plain
    alpha: float = fields["alpha"]
    teacher_logits = made_teacher().network(images)
    return alpha * tempered(logits, teacher_logits, fields["temperature"]) + (1 - alpha) * plain


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("supervised", {}),
        ("kd", {"alpha": 0.7, "temperature": 4.0}),
        ("kd", {"alpha": 0.0, "temperature": 1.0}),
        ("kd", {"alpha": 1.0, "temperature": 2.0}),
        ("noise", {"temperature": 1.0}),
        ("noise", {"temperature": 5.0}),
    ],
)
def test_a_step_is_the_gradient_of_the_equation(name: str, fields: dict[str, Any]) -> None:
    context = made_setting(optim=Sgd(name="sgd", lr=1.0, momentum=0.0), dropout=0.0)
    method = made_method(name, context, **fields)
    student = copy.deepcopy(method.student)
    objective(name, method, fields, student).backward()
    advance(method, 1)
    for before, after in zip(student.parameters(), method.student.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(before - after, before.grad, rtol=1e-3, atol=1e-5)


def test_every_method_has_an_example_here() -> None:
    assert METHOD_CONFIGS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "student" in method.roles])
def test_the_students_loss_of_every_method_falls(name: str) -> None:
    optim = Adam(name="adam", lr=0.02)
    rows = advance(made_method(name, made_setting(optim=optim, dropout=0.0)), 30)
    names = ("loss/kd", "loss/cross_entropy", "loss/smoothed_cross_entropy")
    losses = [next((row[name] for name in names if name in row), 0.0) for row in rows]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("name", METHODS)
def test_the_teacher_is_untouched(name: str) -> None:
    teacher = made_teacher()
    before = copy.deepcopy(teacher.state_dict())
    advance(made_method(name, made_setting(teacher=teacher)), 3)
    assert_same(teacher.state_dict(), before)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_decides_everything(name: str) -> None:
    torch.manual_seed(1)
    first = advance(made_method(name), 3)
    torch.manual_seed(2)
    assert advance(made_method(name), 3) == first
    assert advance(made_method(name, made_setting(seed=1)), 3) != first


@pytest.mark.parametrize("name", METHODS)
def test_data_free_methods_work_without_a_batch(name: str) -> None:
    method = made_method(name)
    if method.streams:
        with pytest.raises(KeyError, match="|".join(method.streams)):
            method.step({})
    else:
        assert method.step({})
