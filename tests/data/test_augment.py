"""What a method augments itself: images that it has made, normalised, with gradients."""

import pytest
import torch
from torch import Tensor

from raykd.data.augment import AUGMENTATIONS, augment_normalised
from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.spec import DataSpec

SPEC = DataSpec("made", 3, 3, 8, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
EVERY = tuple(AUGMENTATIONS)
BATCH = 12


def images() -> Tensor:
    """Some of them outside of [0, 1], as a generator's are."""
    return torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def augmented(names: tuple[str, ...] = EVERY, seed: int = 0, step: int = 0) -> Tensor:
    return augment_normalised(images(), names, SPEC, World.alone(), seed=seed, step=step)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", EVERY)
def test_any_number_of_workers_augments_as_one_does(size: int, name: str) -> None:
    worlds = [World(rank, size, torch.device("cpu")) for rank in range(size)]
    shares = images().chunk(size)
    together = [
        augment_normalised(share, (name,), SPEC, world, seed=3, step=5)
        for share, world in zip(shares, worlds, strict=True)
    ]
    torch.testing.assert_close(torch.cat(together), augmented((name,), 3, 5))


def test_seed_and_step_decide() -> None:
    assert torch.equal(augmented(), augmented())
    assert not torch.allclose(augmented(), augmented(seed=1))
    assert not torch.allclose(augmented(), augmented(step=1))
    torch.testing.assert_close(augmented(()), images())


def test_a_flipped_image_is_its_mirror_image_also_beyond_white() -> None:
    before, after = images(), augmented(("flip",))
    assert SPEC.denormalise(before).max() > 1
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(after, before, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(after, before, strict=True)]
    assert [one != other for one, other in zip(kept, mirrored, strict=True)] == [True] * BATCH
    assert any(kept) and any(mirrored)


def test_what_moves_in_from_outside_is_black() -> None:
    white = SPEC.normalise(torch.ones(BATCH, 3, 8, 8))
    values = SPEC.denormalise(augment_normalised(white, ("crop",), SPEC, World.alone(), seed=0, step=0))
    assert {round(value, 3) for value in values.flatten().tolist()} == {0.0, 1.0}


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_the_images(name: str) -> None:
    before = images().requires_grad_()
    augment_normalised(before, (name,), SPEC, World.alone(), seed=0, step=0).square().sum().backward()
    assert before.grad is not None
    assert (before.grad.abs().amax((1, 2, 3)) > 0).all(), "of every image"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'flipp'; did you mean 'flip'"):
        augmented(("flipp",))
