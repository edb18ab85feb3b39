"""Replay: a student goes on learning from images of earlier steps, so that it does not forget what the generator left.

A ring keeps the last N images of the generator, those of all workers, in 8 bits. Of a student's batch of B images
k = round(fraction B), evenly spread over the rows, are replaced by images drawn from the ring, with replacement, by
(seed, update) alone; then the whole new batch, the replaced rows too, goes into the ring. It is a cheap form of what
PRE-DFKD's second generator (Binici et al., AAAI 2022, arXiv 2201.03019) and MAD's moving average are for.

Units: generators work in the normalised input space of their teacher, and a standardised output (mean 0, variance 1)
leaves the range of pixels. Each channel of each image is therefore stored between its own smallest and largest value,

    u = round(255 (x - low) / (high - low))        x' = low + u (high - low) / 255

which is exact to half a level, |x - x'| <= (high - low) / 510, for every kind of output, clips nothing and needs no
sample. It takes two more numbers per channel of an image.

All workers keep the same ring: they see what one worker would, and a checkpoint goes on with any number of them.

Shapes: N images of the ring, B of the global batch, b of a worker's, C channels, H W image.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from raykd.config.base import Config
from raykd.distributed.world import mix
from raykd.methods.base import MethodContext

_RECALL = 29  # keeps these random numbers apart from others of the same seed and update
_LEVELS = 255


class ReplayConfig(Config):
    """How many images are kept, and which part of a student's batch they are."""

    images: int = Field(gt=0, description="the last ones of the generator that are kept, of all workers together")
    fraction: float = Field(default=0.5, gt=0, lt=1, description="of a student's batch")


class ImageRing:
    """The last images that a generator made, in 8 bits on the device."""

    def __init__(self, config: ReplayConfig, context: MethodContext) -> None:
        """Make room for all of them."""
        spec, self._world, self._seed = context.spec, context.world, context.seed
        device = self._world.device
        self._batch = context.global_batch
        self._pixels = torch.zeros(config.images, spec.channels, spec.size, spec.size, dtype=torch.uint8, device=device)
        self._low = torch.zeros(config.images, spec.channels, device=device)
        self._span = torch.zeros_like(self._low)
        self._written = 0
        replaced, whole = round(config.fraction * self._batch), self._batch
        rows = [row for row in range(whole) if (row + 1) * replaced // whole > row * replaced // whole]
        mine = range(whole)[self._world.slice(whole)]
        self._places = [row - mine.start for row in rows if row in mine]
        self._rows = torch.tensor(self._places, dtype=torch.long, device=device)

    @property
    def nbytes(self) -> int:
        """Return the bytes that it takes when it is full."""
        return self._pixels.nbytes + self._low.nbytes + self._span.nbytes

    def mix(self, images: Tensor, update: int) -> Tensor:
        """Return images (b, C, H, W) of the generator, some replaced by earlier ones, and keep those given.

        Args:
            images: this worker's rows of the global batch, without gradient.
            update: number of the student's update, which decides what is drawn.
        """
        mixed = self._replaced(images, update) if self._written else images
        self._keep(images)
        return mixed

    def state_dict(self) -> dict[str, Any]:
        """Return the images that are there, and how many there have ever been."""
        there = slice(min(self._written, len(self._pixels)))
        parts = {"pixels": self._pixels, "low": self._low, "span": self._span}
        # A part of a tensor would be saved with the whole of it.
        return {"written": self._written, **{name: part[there].clone() for name, part in parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore.

        Raises:
            KeyError, TypeError, ValueError: if these are not images of such a ring.
        """
        written = int(state["written"])
        there = min(written, len(self._pixels))
        for name, part in (("pixels", self._pixels), ("low", self._low), ("span", self._span)):
            saved = state[name]
            if saved.shape != part[:there].shape or saved.dtype != part.dtype:
                raise ValueError(f"{name} of the replay is {saved.dtype} {list(saved.shape)}, which is not its shape")
            part[:there].copy_(saved)
        self._written = written

    def _replaced(self, images: Tensor, update: int) -> Tensor:
        source = torch.Generator().manual_seed(mix(self._seed, _RECALL, update))
        drawn = torch.randint(min(self._written, len(self._pixels)), (self._batch,), generator=source)
        drawn = drawn[self._world.slice(self._batch)][self._places].to(images.device, non_blocking=True)
        levels = self._pixels[drawn].to(images.dtype) / _LEVELS
        earlier = self._low[drawn][..., None, None] + self._span[drawn][..., None, None] * levels
        return images.index_copy(0, self._rows, earlier.to(images.dtype))

    def _keep(self, images: Tensor) -> None:
        images = images.to(self._low.dtype)
        low = images.amin(dim=(2, 3))
        span = images.amax(dim=(2, 3)) - low
        steps = _LEVELS / span.clamp(min=torch.finfo(span.dtype).tiny)  # of a channel without contrast all is 0
        pixels = ((images - low[..., None, None]) * steps[..., None, None]).round_().clamp_(0, _LEVELS)
        room = len(self._pixels)
        parts = ((self._pixels, pixels.to(torch.uint8)), (self._low, low), (self._span, span))
        for ring, own in parts:
            rows = self._world.gather(own).flatten(0, 1)[-room:]
            places = torch.arange(self._written + self._batch - len(rows), self._written + self._batch) % room
            ring.index_copy_(0, places.to(ring.device, non_blocking=True), rows)
        self._written += self._batch
