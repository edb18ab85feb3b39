"""What a method augments itself: images that it has made, normalised, with gradients."""

import math

import pytest
import torch
from torch import Tensor

from raykd.data.augment import AUGMENTATIONS, augment_normalised, crop_resized
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


def ramp(count: int, size: int = 16) -> Tensor:
    """Images whose first channel is x and whose second y, in pixels."""
    across = torch.arange(size, dtype=torch.float64).expand(size, size)
    return torch.stack([across, across.T])[None].expand(count, 2, size, size)


@pytest.mark.parametrize("smallest", [0.08, 0.5, 1.0])
def test_an_enlarged_part_is_a_box_of_the_image(smallest: float) -> None:
    """Of a ramp the part can be read off: where it begins, and how large it is."""
    size, count = 16, 400
    draws = torch.rand(4, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cut = crop_resized(ramp(count), draws, smallest)
    inner = cut[:, :, 4:12, 4:12]  # away from the edges, beyond which there is no ramp
    width = (inner[:, 0, :, -1] - inner[:, 0, :, 0]).mean(1) / 7
    height = (inner[:, 1, -1] - inner[:, 1, 0]).mean(1) / 7
    torch.testing.assert_close(width * height, smallest + (1 - smallest) * draws[0])
    assert (width / height).log().abs().max() <= math.log(4 / 3) + 1e-9
    assert max(float(width.max()), float(height.max())) <= 1 + 1e-9
    centre_x, centre_y = inner[:, 0].mean((1, 2)) + 0.5, inner[:, 1].mean((1, 2)) + 0.5
    torch.testing.assert_close(centre_x, size * (width / 2 + (1 - width) * draws[3]))
    torch.testing.assert_close(centre_y, size * (height / 2 + (1 - height) * draws[2]))


def test_the_whole_area_is_the_whole_image_and_one_draw_is_one_part_of_all() -> None:
    draws = torch.rand(4, 1, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(crop_resized(images(), draws, 1.0), images())
    alike = crop_resized(images(), draws, 0.1)
    torch.testing.assert_close(alike, crop_resized(images(), draws.expand(4, BATCH), 0.1))
