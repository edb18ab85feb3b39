"""What methods with one generator share: the moving average, replay, and going on with both."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.config.optim import Sgd
from raykd.methods.generating import GeneratingMethod
from tests.methods.toy import BATCH, STEPS, advance, assert_same, made_method, made_setting

METHODS = ("dafl", "adversarial")
REPLAY = {"images": 20, "fraction": 0.5}
SWITCHES: list[dict[str, Any]] = [
    {"ema_generator": 0.9},
    {"replay": REPLAY},
    {"ema_generator": 0.9, "replay": REPLAY},
]


def made(name: str, **fields: Any) -> GeneratingMethod:
    method = made_method(name, made_setting(dropout=0.0), **fields)
    assert isinstance(method, GeneratingMethod)
    return method


@pytest.mark.parametrize("name", METHODS)
def test_the_average_follows_the_generator(name: str) -> None:
    method = made(name, ema_generator=0.75)
    average: dict[str, Tensor] = dict(copy.deepcopy(method.trained["generator"]).named_parameters())
    for _ in range(3):
        advance(method, 1)
        for key, new in method.generator.named_parameters():
            average[key] = 0.75 * average[key].detach() + 0.25 * new.detach()
    for key, value in method.trained["generator_average"].named_parameters():
        torch.testing.assert_close(value, average[key], msg=key)
        assert not value.requires_grad
    assert method.updaters.keys() == {"student", "generator"}, "nobody trains the average"


def test_buffers_are_copied_and_not_averaged() -> None:
    method = made("dafl", ema_generator=0.75)
    for role in ("generator", "generator_average"):
        method.trained[role].register_buffer("count", torch.tensor(0))
    method.trained["generator"].get_buffer("count").fill_(5)
    method.follow_generator()
    assert method.trained["generator_average"].get_buffer("count") == 5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fields", SWITCHES, ids=str)
def test_going_on_from_a_checkpoint_is_bit_exact(name: str, fields: dict[str, Any]) -> None:
    whole = made(name, **fields)
    rows = advance(whole, STEPS)
    first = made(name, **fields)
    advance(first, 4)
    state = copy.deepcopy(first.state_dict())
    torch.manual_seed(999)
    second = made(name, **fields)
    second.load_state_dict(state)
    assert advance(second, STEPS - 4) == rows[4:]
    assert_same(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_without_the_switches_the_checkpoint_is_what_it_was(name: str) -> None:
    method = made(name)
    assert method.state_dict().keys() == {"steps_done", "trained", "updaters"}
    assert method.trained.keys() == {"student", "generator"}
    bytes_ = made(name, replay=REPLAY).checkpoint_bytes()
    assert bytes_ == method.checkpoint_bytes() + REPLAY["images"] * (64 + 8)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fields", SWITCHES, ids=str)
def test_the_student_sees_other_images_and_the_generator_does_not(name: str, fields: dict[str, Any]) -> None:
    """Plain descent: DAFL's generator does not ask the student, so it learns what it would."""
    plain, other = made(name), made(name, **fields)
    for method in (plain, other):
        advance(method, 2)
    assert not torch.equal(plain.student.state_dict()["head.weight"], other.student.state_dict()["head.weight"])
    if name == "dafl":
        assert_same(plain.generator.state_dict(), other.generator.state_dict())


class Brightness(nn.Module):
    """A student that tells how bright images are, so that its loss tells which images it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        return images.mean((1, 2, 3))[:, None] * self.weight


@pytest.mark.parametrize("name", METHODS)
def test_a_students_batch_is_new_images_earlier_ones_and_those_of_the_average(name: str) -> None:
    context = made_setting(optim=Sgd(name="sgd", lr=0.01, momentum=0.0))
    student = Brightness()
    context.networks["student"] = student  # type: ignore[index]
    method = made_method(name, context, ema_generator=0.9, replay=REPLAY)
    given: list[Tensor] = []
    mix = method._ring.mix  # type: ignore[attr-defined]

    def noted(images: Tensor, update: int) -> Tensor:
        given.append(images)
        mixed: Tensor = mix(images, update)
        return mixed

    method._ring.mix = noted  # type: ignore[attr-defined]
    advance(method, 2)
    shown = [images for images in student.seen if len(images) == 2 * BATCH]
    assert len(shown) == len(given) == (4 if name == "adversarial" else 2)
    assert torch.equal(shown[0][:BATCH], given[0]), "nothing earlier yet"
    new = (shown[-1][:BATCH] == given[-1]).flatten(1).all(1)
    assert new.sum() == BATCH // 2
    earlier, others = torch.cat(given[:-1]).flatten(1), shown[-1][:BATCH][~new].flatten(1)
    assert ((others[:, None] - earlier).abs().amax(2).amin(1) < 0.02).all(), "those of before, but for their 8 bits"
    averages = {tuple(images[BATCH:].flatten()[:5].tolist()) for images in shown}
    assert len(averages) == len(shown), "of latents of their own each time"


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_the_sum_over_both_generators(name: str) -> None:
    """With an average that is the generator, and no BatchNorm, the second half counts as much as the first."""
    one, two = made(name), made(name, ema_generator=0.999999)
    for method in (one, two):
        advance(method, 1)
    values = [advance(method, 1)[0]["loss/kd"] for method in (one, two)]
    assert 1.5 * values[0] < values[1] < 2.5 * values[0]
