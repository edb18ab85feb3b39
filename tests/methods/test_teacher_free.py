"""The labelled family against float64 references written out here: the papers' equations, the released code's."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.config.optim import Sgd
from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.losses import kd_divergence, virtual_teacher
from raykd.methods import METHODS
from raykd.methods.base import Method, MethodContext
from raykd.models.teacher import Teacher
from raykd.spec import Batch
from tests.methods.toy import SPEC, made_config, made_setting

K = 100  # classes, as CIFAR-100: the readings differ by this factor
RATE = 0.25
ROWS = 6
Reference = Callable[[Tensor, Tensor, Tensor], Tensor]


class Head(nn.Module):
    """One linear layer on the first values of an image, so that a step tells the gradient of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8 * 8, K)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def stepped(name: str, **fields: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Take one step of SGD; return student's and teacher's logits before it, labels, bias gradient and metrics."""
    torch.manual_seed(0)
    student, teacher = Head(), Head()
    with torch.no_grad():
        teacher.linear.weight.mul_(8)
    context = MethodContext(
        spec=replace(SPEC, num_classes=K, class_names=()),
        world=World.alone(),
        networks={"student": student, "teacher": Teacher(teacher, channels=1, size=8)},
        student_optim=Sgd(name="sgd", lr=RATE, momentum=0.0),
        steps=1,
        global_batch=ROWS,
        seed=0,
        compiler=lambda network: network,
    )
    method: Method = METHODS[name](made_config(name, **fields), context)
    images, labels = torch.randn(ROWS, 1, 8, 8), torch.randint(0, K, (ROWS,))
    with torch.no_grad():
        logits, answers = student(images).double(), teacher(images).double()
    before = student.linear.bias.detach().double().clone()
    metrics = method.step({"train": Batch(images, labels)})
    return logits, answers, labels, (before - student.linear.bias.detach().double()) / RATE, metrics


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    rows = [
        math.log(sum(math.exp(v) for v in row)) - row[label] for row, label in zip(logits.tolist(), labels, strict=True)
    ]
    return torch.tensor(sum(rows) / len(rows), dtype=torch.float64)


def p_minus_target(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Gradient by the logits, summed over rows and divided by their number, of KL(target || softmax(logits / T))."""
    return (((logits / temperature).softmax(1) - target) / temperature).mean(0)


def onehot(labels: Tensor) -> Tensor:
    return torch.eye(K, dtype=torch.float64)[labels]


def virtual(labels: Tensor, a: float) -> Tensor:
    return onehot(labels) * a + (1 - onehot(labels)) * (1 - a) / (K - 1)


def kd_reference(alpha: float, t: float, factor: float) -> Reference:
    def gradient(logits: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
        soft = p_minus_target(logits, (answers / t).softmax(1), t)
        return alpha * factor * t**2 * soft + (1 - alpha) * p_minus_target(logits, onehot(labels))

    return gradient


def reg_reference(alpha: float, t: float, factor: float, released: bool) -> Reference:
    def gradient(logits: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
        teacher = virtual(labels, 0.99)
        if released:
            soft = p_minus_target(logits, (teacher / t).softmax(1)) / K
        else:
            softened = teacher ** (1 / t)
            soft = t**2 * p_minus_target(logits, softened / softened.sum(1, keepdim=True), t)
        return alpha * factor * soft + (1 - alpha) * p_minus_target(logits, onehot(labels))

    return gradient


def smoothing_reference(released: bool) -> Reference:
    def gradient(logits: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
        y = onehot(labels)
        target = 0.9 * y + (0.1 * (1 - y) / (K - 1) if released else torch.full_like(y, 0.1 / K))
        return p_minus_target(logits, target)

    return gradient


CASES: dict[str, tuple[str, dict[str, Any], Reference]] = {
    "kd": ("kd", {"alpha": 0.7, "temperature": 3.0}, kd_reference(0.7, 3.0, 1)),
    "kd released": (
        "kd",
        {"alpha": 0.95, "temperature": 20.0, "arithmetic": "released"},
        kd_reference(0.95, 20.0, 1 / K),
    ),
    "self": ("tfkd_self", {"alpha": 0.4, "temperature": 6.0, "multiplier": 2.0}, kd_reference(0.4, 6.0, 2)),
    "self released": (
        "tfkd_self",
        {"alpha": 0.95, "temperature": 6.0, "multiplier": 50.0, "arithmetic": "released"},
        kd_reference(0.95, 6.0, 50 / K),
    ),
    "reg": ("tfkd_reg", {"alpha": 0.3, "temperature": 20.0}, reg_reference(0.3, 20.0, 1, released=False)),
    "reg without T^2": (
        "tfkd_reg",
        {"alpha": 0.3, "temperature": 5.0, "multiplier": 1 / 25},
        reg_reference(0.3, 5.0, 1 / 25, released=False),
    ),
    "reg released": (
        "tfkd_reg",
        {"alpha": 0.1, "temperature": 20.0, "multiplier": 100.0, "arithmetic": "released"},
        reg_reference(0.1, 20.0, 100, released=True),
    ),
    "smoothing": ("label_smoothing", {}, smoothing_reference(released=False)),
    "smoothing released": ("label_smoothing", {"arithmetic": "released"}, smoothing_reference(released=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_references(case: str) -> None:
    name, fields, reference = CASES[case]
    logits, answers, labels, gradient, _ = stepped(name, **fields)
    torch.testing.assert_close(gradient, reference(logits, answers, labels), rtol=1e-4, atol=1e-6)


def test_the_losses_reported_are_the_references() -> None:
    logits, answers, labels, _, metrics = stepped("kd", alpha=0.7, temperature=3.0)
    p, q = (answers / 3).softmax(1), (logits / 3).softmax(1)
    assert metrics["loss/kd"].item() == pytest.approx(9 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-5)
    assert metrics["loss/cross_entropy"].item() == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
    _, _, _, _, released = stepped("kd", alpha=0.7, temperature=3.0, arithmetic="released")
    assert released["loss/kd"].item() == pytest.approx(metrics["loss/kd"].item() / K, rel=1e-5)
    logits, _, labels, _, metrics = stepped("tfkd_reg", temperature=20.0, arithmetic="released")
    target = (virtual(labels, 0.99) / 20).softmax(1)
    elements = target * (target.log() - logits.log_softmax(1))
    assert metrics["loss/virtual_teacher"].item() == pytest.approx(elements.mean().item(), rel=1e-4, abs=1e-7)
    logits, _, labels, _, metrics = stepped("label_smoothing")
    smoothed = 0.9 * cross_entropy(logits, labels) - 0.1 * logits.log_softmax(1).mean()
    assert metrics["loss/smoothed_cross_entropy"].item() == pytest.approx(smoothed.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("alpha", "temperature", "multiplier", "weight"),
    [(0.95, 20.0, 1.0, 3.8), (0.6, 20.0, 1.0, 2.4), (0.95, 6.0, 50.0, 17.1)],
)
def test_the_released_weight_of_the_batch_mean_divergence(
    alpha: float, temperature: float, multiplier: float, weight: float
) -> None:
    fields = {"alpha": alpha, "temperature": temperature, "multiplier": multiplier, "arithmetic": "released"}
    logits, answers, labels, gradient, _ = stepped("kd", **fields)
    soft = p_minus_target(logits, (answers / temperature).softmax(1), temperature)
    hard = p_minus_target(logits, onehot(labels))
    found = torch.linalg.lstsq(torch.stack([soft, hard], dim=1), gradient[:, None]).solution.flatten()
    assert found.tolist() == pytest.approx([weight, 1 - alpha], rel=1e-3)


def test_the_released_virtual_teacher_is_nearly_uniform() -> None:
    labels = torch.arange(4)
    target = (virtual_teacher(labels, K, 0.99) / 20).softmax(1)
    assert target[0, 0].item() == pytest.approx(0.0105, abs=5e-5)
    assert target[0, 1].item() == pytest.approx(0.0100, abs=5e-5)
    assert (virtual_teacher(labels, K, 0.99) / 40).softmax(1)[0, 0].item() == pytest.approx(0.0102, abs=5e-5)


def test_at_high_temperature_the_gradient_no_longer_depends_on_it() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(ROWS, K, dtype=torch.float64)
    gradients = []
    for temperature in (100.0, 200.0, 400.0):
        student = torch.randn(ROWS, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        (gradient,) = torch.autograd.grad(kd_divergence(student, teacher, temperature), student)
        gradients.append(gradient)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=0.0, atol=0.02 * gradients[0].abs().max().item())
    cold = kd_divergence(student, teacher, 1.0)
    (at_one,) = torch.autograd.grad(cold, student)
    assert (at_one - gradients[0]).abs().max() > 0.2 * gradients[0].abs().max(), "and at 1 it does"


def test_a_virtual_teacher_is_no_network() -> None:
    assert METHODS["tfkd_reg"].roles == METHODS["label_smoothing"].roles == ("student",)
    with pytest.raises(UsageError, match=r"0.25 is not above chance with 4 classes"):
        METHODS["tfkd_reg"](made_config("tfkd_reg", correct_prob=0.25), made_setting())


def test_self_distillation_wants_the_students_own_architecture() -> None:
    with pytest.raises(UsageError, match="an earlier run of the student's own network: it has .* tensors"):
        METHODS["tfkd_self"](made_config("tfkd_self"), made_setting())  # whose teacher is twice as wide
