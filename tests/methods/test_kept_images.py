"""A sample of finished images: uniform, alike whoever made them, in whatever order they came."""

import pytest
import torch

from raykd.data.image_pool import PoolPart
from raykd.distributed.world import World
from raykd.methods.kept_images import MOST, KeptImages
from tests.methods.saved_images import Saved

IMAGES = 3 * MOST


def part(first: int, stop: int) -> PoolPart:
    numbers = torch.arange(first, stop)
    pixels = torch.stack([numbers % 256, numbers // 256], dim=1).to(torch.uint8)[:, :, None, None]
    return PoolPart(pixels, numbers % 5, numbers)


def numbers_of(pixels: torch.Tensor | None) -> list[int]:
    assert pixels is not None
    return (pixels[:, 0, 0, 0].long() + 256 * pixels[:, 1, 0, 0].long()).tolist()


@pytest.mark.parametrize("sizes", [(IMAGES,), (100, IMAGES - 100), (1, 1, IMAGES - 2)])
def test_the_sample_depends_on_the_seed_alone(sizes: tuple[int, ...]) -> None:
    kept, first, parts = KeptImages(3, World.alone()), 0, []
    assert kept.pixels() is None
    for size in sizes:
        parts.append(part(first, first + size))
        first += size
    kept.add(reversed(parts))
    whole = KeptImages(3, World.alone())
    whole.add([part(0, IMAGES)])
    found = numbers_of(kept.pixels())
    assert found == numbers_of(whole.pixels())
    assert len(set(found)) == MOST
    other = KeptImages(4, World.alone())
    other.add([part(0, IMAGES)])
    assert numbers_of(other.pixels()) != found


def test_all_are_there_while_they_are_few_and_each_once() -> None:
    kept = KeptImages(0, World.alone())
    kept.add([part(0, 10), part(5, 20)])
    assert sorted(numbers_of(kept.pixels())) == list(range(20))


def test_saved_images_are_chosen_by_their_numbers_before_they_are_decoded() -> None:
    numbers = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    pixels = numbers.remainder(256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    parts = Saved(PoolPart(p, n, n) for p, n in zip(pixels.split(100), numbers.split(100), strict=True))
    made, again = (KeptImages(3, World.alone()) for _ in range(2))
    made.add(parts)
    again.add_saved(parts)
    assert parts.decoded == MOST
    ours, theirs = made.pixels(), again.pixels()
    assert ours is not None
    assert theirs is not None
    assert len(ours) == MOST
    assert torch.equal(ours, theirs)
    empty = KeptImages(3, World.alone())
    empty.add_saved(Saved())
    assert empty.pixels() is None
