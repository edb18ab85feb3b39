"""The ring of earlier images: what is kept, how exactly, what is drawn, and that all workers keep the same."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.methods.replay import ImageRing, ReplayConfig
from tests.methods.toy import BATCH, assert_same, made_setting


def ring(images: int = 20, fraction: float = 0.5, seed: int = 0) -> ImageRing:
    return ImageRing(ReplayConfig(images=images, fraction=fraction), made_setting(seed=seed))


def made(number: int, scale: float = 1.0) -> Tensor:
    """A batch whose images all tell its number."""
    generator = torch.Generator().manual_seed(number)
    return 100.0 * number + scale * torch.randn(BATCH, 1, 8, 8, generator=generator)


def kept(one: ImageRing) -> Tensor:
    """All images of a ring, oldest first."""
    state = one.state_dict()
    images = state["low"][..., None, None] + state["span"][..., None, None] * state["pixels"] / 255
    start = state["written"] % len(images) if state["written"] > len(images) else 0
    return torch.cat([images[start:], images[:start]])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_images_are_kept_to_half_a_level_of_their_own_range(scale: float) -> None:
    one = ring()
    given = made(1, scale)
    assert one.mix(given, 0) is given  # nothing earlier yet
    error = (kept(one) - given).abs().amax((1, 2, 3))
    span = given.amax((1, 2, 3)) - given.amin((1, 2, 3))
    assert (error <= span / 510 + 2e-5).all()  # 100 in float32 is exact to 4e-6
    assert error.max() > span.max() / 2000, "8 bits are less than what was given"


def test_an_image_without_contrast_stays_what_it_is() -> None:
    one = ring()
    one.mix(torch.full((BATCH, 1, 8, 8), -3.25), 0)
    assert torch.equal(kept(one), torch.full((BATCH, 1, 8, 8), -3.25))


@pytest.mark.parametrize("images", [3, 8, 20])
def test_the_last_ones_are_kept(images: int) -> None:
    one = ring(images)
    given = [made(number) for number in range(1, 6)]
    for update, batch in enumerate(given):
        one.mix(batch, update)
    torch.testing.assert_close(kept(one), torch.cat(given)[-images:], rtol=0, atol=0.05)


@pytest.mark.parametrize(("fraction", "replaced"), [(0.5, 4), (0.26, 2), (0.01, 0), (0.9, 7)])
def test_a_part_of_the_batch_is_of_earlier_batches(fraction: float, replaced: int) -> None:
    one = ring(1000, fraction)
    one.mix(made(1), 0)
    new = made(2)
    mixed = one.mix(new, 1)
    number = (mixed.mean((1, 2, 3)) / 100).round()
    assert (number == 1).sum() == replaced
    assert torch.equal(mixed[number == 2], new[number == 2])


def test_seed_and_update_alone_decide_what_is_drawn() -> None:
    def mixed(update: int, seed: int = 0) -> Tensor:
        one = ring(1000, seed=seed)
        for number in range(1, 5):
            one.mix(made(number), 0)
        torch.manual_seed(update + 7)
        return one.mix(made(5), update)

    assert torch.equal(mixed(3), mixed(3))
    assert not torch.equal(mixed(3), mixed(4))
    assert not torch.equal(mixed(3), mixed(3, seed=1))


@pytest.mark.parametrize("batches", [1, 2, 9])
def test_it_goes_on_from_its_state(batches: int) -> None:
    one = ring()
    for number in range(batches):
        one.mix(made(number), number)
    state = copy.deepcopy(one.state_dict())
    assert len(state["pixels"]) == min(20, batches * BATCH), "no room is saved that nothing fills"
    assert state["pixels"].untyped_storage().nbytes() == state["pixels"].nbytes
    other = ring()
    other.load_state_dict(state)
    assert torch.equal(other.mix(made(50), 60), one.mix(made(50), 60))
    assert_same(other.state_dict(), one.state_dict())


@pytest.mark.parametrize("change", [{"written": 7}, {"low": torch.zeros(1, 1)}, {"pixels": torch.zeros(8, 1, 8, 8)}])
def test_another_rings_state_is_refused(change: dict[str, Any]) -> None:
    one = ring()
    one.mix(made(1), 0)
    with pytest.raises(ValueError, match="which is not its shape"):
        ring().load_state_dict({**one.state_dict(), **change})


def test_its_size_is_told() -> None:
    assert ring(20).nbytes == 20 * (64 + 2 * 4)
