"""DAFL's step against the paper's equations, written here once more with one backward pass."""

import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.config.optim import Sgd
from raykd.methods.dafl import Dafl
from tests.methods.toy import (
    BATCH,
    advance,
    assert_same,
    made_method,
    made_setting,
    made_teacher,
)

PLAIN_SGD = {"name": "sgd", "lr": 1.0, "momentum": 0.0}
SWITCHES: list[dict[str, Any]] = [
    {},
    {"temperature": 3.0},
    {"pseudo_label": "onehot_distance"},
    {"pseudo_label": "gini"},
    {"pseudo_label": "lq", "lq_exponent": 0.3},
    {"pseudo_label": "shannon"},
    {"entropy": "per_sample"},
    {"entropy": "mutual_information"},
    {"activation_reduction": "sum"},
    {"onehot_weight": 0.3, "entropy_weight": 5.0, "activation_weight": 0.02},
]


def dafl(**fields: Any) -> Dafl:
    """With plain gradient descent at rate 1, so that a step is minus the gradient."""
    context = made_setting(optim=Sgd(name="sgd", lr=1.0, momentum=0.0), dropout=0.0)
    method = made_method("dafl", context, generator_optim=PLAIN_SGD, **fields)
    assert isinstance(method, Dafl)
    return method


def pseudo_label(p: Tensor, kind: str, q: float) -> Tensor:
    top = p.amax(1)
    return {
        "cross_entropy": -top.log().mean(),
        "onehot_distance": (2 - 2 * top).mean(),
        "gini": (1 - (p * p).sum(1)).mean(),
        "lq": ((p + 1e-6) ** q).sum(1).mean(),
        "shannon": -(p * p.log()).sum(1).mean(),
    }[kind]


def entropy(p: Tensor, kind: str) -> Tensor:
    mean = p.mean(0)
    batch, single = -(mean * mean.log()).sum(), -(p * p.log()).sum(1).mean()
    return {"batch": -batch, "per_sample": -single, "mutual_information": single - batch}[kind]


def reference(method: Dafl, z: Tensor, fields: dict[str, Any]) -> tuple[dict[str, float], Any]:
    """Return the losses, and the gradients by network, of one joint backward pass in the plain way."""
    c: dict[str, Any] = {
        "onehot_weight": 1.0, "entropy_weight": 2.1715, "activation_weight": 0.1, "temperature": 1.0,
        "pseudo_label": "cross_entropy", "lq_exponent": 0.5, "entropy": "batch",
        "activation_reduction": "mean", **fields,
    }  # fmt: skip
    generator, student = copy.deepcopy(method.generator), copy.deepcopy(method.student)
    teacher = made_teacher().network
    images = generator(z)
    features = teacher.hidden(teacher.body(images)).relu()  # type: ignore[operator]
    logits = teacher.head(features)  # type: ignore[operator]
    p = logits.softmax(1)
    onehot = pseudo_label(p, c["pseudo_label"], c["lq_exponent"])
    balance = entropy(p, c["entropy"])
    magnitude = features.abs()
    activation = -(magnitude.mean() if c["activation_reduction"] == "mean" else magnitude.sum(1).mean())
    t = c["temperature"]
    soft = (logits.detach() / t).softmax(1)
    divergence = (soft * (soft.log() - (student(images.detach()) / t).log_softmax(1))).sum(1)
    kd = t * t * divergence.mean()
    total = c["onehot_weight"] * onehot + c["entropy_weight"] * balance
    (total + c["activation_weight"] * activation + kd).backward()
    losses = {"onehot": onehot, "entropy": balance, "activation": activation, "kd": kd}
    gradients = {
        name: {key: 0 if w.grad is None else w.grad for key, w in network.named_parameters()}
        for name, network in {"generator": generator, "student": student}.items()
    }
    return {f"loss/{name}": value.item() for name, value in losses.items()}, gradients


@pytest.mark.parametrize("fields", SWITCHES, ids=str)
def test_a_step_is_the_gradient_of_the_equations(fields: dict[str, Any]) -> None:
    method = dafl(**fields)
    z = method.world.randn(BATCH, 6, seed=0, step=0)
    losses, gradients = reference(method, z, fields)
    before = copy.deepcopy({name: network for name, network in method.trained.items()})
    metrics = method.step({})
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(losses, 1e-4)
    for name, network in method.trained.items():
        old = dict(before[name].named_parameters())
        moved = {key: old[key].detach() - new.detach() for key, new in network.named_parameters()}
        scale = max(float(torch.as_tensor(g).abs().max()) for g in gradients[name].values())
        for key, step in moved.items():
            expected = torch.as_tensor(gradients[name][key]).expand_as(step)
            torch.testing.assert_close(step, expected.to(step), rtol=1e-3, atol=1e-4 * scale)


def test_the_switches_are_different_objectives() -> None:
    values = [tuple(made(fields)) for fields in SWITCHES[1:9]]
    assert len(set(values)) == len(values)


def made(fields: dict[str, Any]) -> list[float]:
    return list(advance(dafl(**fields), 1)[0].values())


@pytest.mark.parametrize(
    ("weight", "switch"),
    [
        ("onehot_weight", {"pseudo_label": "gini"}),
        ("entropy_weight", {"entropy": "per_sample"}),
        ("activation_weight", {"activation_reduction": "sum"}),
    ],
)
def test_a_weight_of_zero_removes_its_term(weight: str, switch: dict[str, Any]) -> None:
    plain, other = dafl(**{weight: 0.0}), dafl(**{weight: 0.0}, **switch)
    control = dafl(**switch)
    for method in (plain, other, control):
        advance(method, 3)
    assert_same(plain.state_dict(), other.state_dict())
    with pytest.raises(AssertionError):
        assert_same(plain.state_dict(), control.state_dict())


def test_without_any_term_the_generator_stays_and_the_student_learns() -> None:
    method = dafl(onehot_weight=0.0, entropy_weight=0.0, activation_weight=0.0)
    generator = copy.deepcopy(method.generator.state_dict())
    student = copy.deepcopy(method.student.state_dict())
    advance(method, 3)
    assert_same(method.generator.state_dict(), generator)
    assert not torch.equal(method.student.state_dict()["head.weight"], student["head.weight"])


def test_the_student_learns_on_the_images_of_before_the_generators_update() -> None:
    """Otherwise its first loss would depend on the generator's rate."""
    slow, fast = dafl(), dafl()
    fast.updaters["generator"]._config = Sgd(name="sgd", lr=100.0, momentum=0.0)
    assert advance(slow, 1) == advance(fast, 1)
    assert_same(slow.student.state_dict(), fast.student.state_dict())


def test_the_teacher_is_untouched() -> None:
    teacher = made_teacher()
    method = made_method("dafl", made_setting(teacher=teacher))
    before = copy.deepcopy(teacher.state_dict())
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in teacher.modules()]
    advance(method, 4)
    assert_same(teacher.state_dict(), before)
    assert [p for p in teacher.parameters() if p.requires_grad or p.grad is not None] == []
    assert not any(module.training for module in teacher.network.modules())
    assert hooks == [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in teacher.modules()]


def test_a_step_leaves_no_gradient_and_no_graph_behind() -> None:
    method = made_method("dafl")
    advance(method, 2)
    gc.collect()
    alive = [o for o in gc.get_objects() if type(o) is Tensor and o.grad_fn is not None]
    assert alive == []
    parameters = [p for network in method.trained.values() for p in network.parameters()]
    assert all(p.grad is None for p in parameters)


def test_samples_are_held_out_and_repeatable() -> None:
    method = dafl()
    first, again, other = method.sample(4, 1), method.sample(4, 1), method.sample(4, 2)
    assert first.shape == (4, 1, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad
