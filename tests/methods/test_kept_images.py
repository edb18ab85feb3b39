"""A sample of images: the same whoever brings them, and of saved ones no more is decoded than it needs."""

import torch

from raykd.data.image_pool import PoolPart
from raykd.distributed.world import World
from raykd.methods.kept_images import MOST, KeptImages
from tests.methods.saved_images import Saved


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
