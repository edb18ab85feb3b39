"""Networks of any author run as the engine runs networks, or are refused in a line."""

import copy
import logging
import threading

import pytest
import torch
from torch import nn

from raykd.errors import UsageError
from raykd.models.adapters import adapt, materialise
from tests.models import strangers
from tests.models.strangers import CLASSES, SHAPE, ByReshape, ByView, Flattens, InPlace, Lazy, Returns

CONTIGUOUS = ("ByView", "ByStrides", "OwnGradient")


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["Flattens", "ByReshape", "ByTranspose", *CONTIGUOUS])
def test_it_computes_the_same_in_whatever_layout_images_come(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    network = strangers.build(kind)
    plain = copy.deepcopy(network).eval()
    adapted = adapt(network, SHAPE, CLASSES, "student").eval()
    for batch in (images(), images().to(memory_format=torch.channels_last), images().transpose(2, 3)):
        assert torch.allclose(adapted(batch), plain(batch.clone(memory_format=torch.contiguous_format)), atol=1e-5)
    kept_contiguous = [
        record for record in caplog.records if "runs in the contiguous memory layout" in record.getMessage()
    ]
    assert bool(kept_contiguous) == (kind in CONTIGUOUS)
    weight = adapted.get_parameter("conv2.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) == (kind not in CONTIGUOUS)


def test_a_network_that_views_trains_like_its_twin_that_reshapes() -> None:
    losses = []
    for kind in (ByView, ByReshape):
        torch.manual_seed(0)
        network = adapt(kind(), SHAPE, CLASSES, "student").train()
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        steps = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images(6)), torch.arange(6) % CLASSES)
            loss.backward()
            optimizer.step()
            steps.append(loss.item())
        losses.append(steps)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0] / 2


def test_trying_changes_nothing() -> None:
    network = strangers.build("ByView")
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    adapted = adapt(network, SHAPE, CLASSES, "teacher")
    assert torch.equal(torch.get_rng_state(), state)
    assert adapted.training
    assert all(torch.equal(value, before[key]) for key, value in adapted.state_dict().items())
    assert adapted.state_dict().keys() == before.keys()


def test_images_are_not_written_into(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plain = InPlace().eval()
    adapted = adapt(copy.deepcopy(plain), SHAPE, CLASSES, "teacher").eval()
    shown = images()
    logits = adapted(shown)
    assert torch.equal(shown, images())
    assert torch.allclose(logits, plain(images()), atol=1e-5)
    assert "writes into the images" in caplog.text


def test_answers_that_depend_on_the_batch_are_told(caplog: pytest.LogCaptureFixture) -> None:
    adapt(Flattens(), SHAPE, CLASSES, "teacher")
    assert not caplog.records
    adapt(strangers.build("Untracked"), SHAPE, CLASSES, "teacher")
    assert "depends on the images around it" in caplog.text


def test_lazy_layers_get_their_sizes_before_weights_are_loaded() -> None:
    state = torch.get_rng_state()
    network = Lazy()
    materialise(network, SHAPE, "teacher")
    assert network.state_dict()["layers.3.weight"].shape == (CLASSES, 4 * 10 * 10)
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    adapted = adapt(network, SHAPE, CLASSES, "teacher")
    assert adapted(images()).shape == (5, CLASSES)


@pytest.mark.parametrize(
    ("kind", "output"), [("tuple", 0), ("list", 1), ("dict", "prediction"), ("dataclass", "scores"), ("tuple", -2)]
)
def test_logits_are_picked_out_of_what_a_network_returns(kind: str, output: int | str) -> None:
    network = Returns(kind)
    adapted = adapt(network, SHAPE, CLASSES, "student", output)
    assert adapted(images()).shape == (5, CLASSES)


@pytest.mark.parametrize(
    ("kind", "output", "message"),
    [
        ("tuple", None, r"a tuple of tensor \[4, 3\], tensor \[4, 216\] for 4 images; .* set 'student.output' to"),
        ("dict", None, r"a dict with prediction: tensor \[4, 3\], features: tensor"),
        ("dataclass", None, r"a Answer with scores: tensor"),
        ("dict", "logits", "a dict with prediction"),
        ("1-D", None, r"a tensor \[4\] for 4 images"),
        ("none", None, "a NoneType"),
        ("tuple", 1, "has 216 classes, the data has 3"),
        ("tuple", 7, "a tuple of"),
    ],
)
def test_what_is_no_logits_is_described(kind: str, output: int | str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adapt(Returns(kind), SHAPE, CLASSES, "student", output)


def test_log_probabilities_are_logits() -> None:
    adapted = adapt(Returns("log-probabilities"), SHAPE, CLASSES, "teacher")
    assert torch.allclose(adapted(images()).exp().sum(1), torch.ones(5))


def test_images_that_a_network_does_not_take_are_refused() -> None:
    with pytest.raises(UsageError, match="the teacher does not take images of 3 x 12 x 12 .*; set data.size or"):
        adapt(Flattens(), (3, 12, 12), CLASSES, "teacher")
    with pytest.raises(UsageError, match="the student has 3 classes, the data has 4"):
        adapt(Flattens(), SHAPE, 4, "student")


class Locked(nn.Module):
    """It holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Untrainable(Flattens):
    """Its logits do not depend on its parameters as far as gradients go."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = super().forward(images)
        return answer.detach()


def test_a_student_that_cannot_take_a_step_is_refused_before_one() -> None:
    with pytest.raises(UsageError, match="the student cannot be trained .*does not require grad"):
        adapt(Untrainable(), SHAPE, CLASSES, "student")
    assert adapt(Untrainable(), SHAPE, CLASSES, "teacher")(images()).shape == (5, CLASSES)
    holding = Flattens()
    holding.register_module("lock", Locked())
    with pytest.raises(UsageError, match="the teacher cannot be copied or watched .*cannot pickle"):
        adapt(holding, SHAPE, CLASSES, "teacher")
