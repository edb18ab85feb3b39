"""A uniform sample of the images that a method has finished, for who judges or shows them; alike on every worker."""

from collections.abc import Iterable

import torch
from torch import Tensor

from raykd.data.image_pool import PoolPart, SavedImages
from raykd.distributed.world import World, mix

_KEPT = 51  # keeps these draws apart from others of the same seed
MOST = 256


class KeptImages:
    """Those ``MOST`` images whose numbers have the smallest keys, whoever made them, and in whatever order."""

    def __init__(self, seed: int, world: World) -> None:
        """Keep nothing yet; ``seed`` decides the keys."""
        self._seed, self._world = seed, world
        self._pixels: Tensor | None = None
        self._numbers = torch.zeros(0, dtype=torch.int64)

    def add(self, parts: Iterable[PoolPart]) -> None:
        """Take finished images of this worker's."""
        for part in parts:
            pixels = part.pixels if self._pixels is None else torch.cat([self._pixels, part.pixels])
            self._keep(pixels, torch.cat([self._numbers, part.numbers]))

    def add_saved(self, saved: SavedImages) -> None:
        """Take those of all workers' images that are to be kept; no others are decoded."""
        chosen = self._numbers
        for numbers in saved.numbers():
            chosen = torch.tensor(list(self._choose(torch.cat([chosen, numbers]))), dtype=torch.int64)
        if len(chosen):
            self.add(saved.parts(chosen))

    def pixels(self) -> Tensor | None:
        """Return the sample of all workers' images, uint8 (N, C, H, W), on the CPU; None where there is none yet.

        Every worker must call it.
        """
        if self._world.size > 1:
            self._gather()
        return self._pixels

    def _gather(self) -> None:
        counts = self._world.gather(torch.tensor([len(self._numbers)], device=self._world.device)).flatten().tolist()
        shapes = self._world.gather_objects(None if self._pixels is None else list(self._pixels.shape[1:]))
        shape = next((one for one in shapes if one), None)
        if shape is None:
            return
        device = self._world.device
        pixels = torch.zeros(MOST, *shape, dtype=torch.uint8, device=device)
        numbers = torch.zeros(MOST, dtype=torch.int64, device=device)
        if self._pixels is not None:
            pixels[: len(self._numbers)], numbers[: len(self._numbers)] = (
                self._pixels.to(device), self._numbers.to(device),
            )  # fmt: skip
        all_pixels, all_numbers = (self._world.gather(values).cpu() for values in (pixels, numbers))
        found = torch.cat([all_numbers[rank, :count] for rank, count in enumerate(counts)])
        rows = torch.cat([all_pixels[rank, :count] for rank, count in enumerate(counts)])
        self._keep(rows, found)

    def _keep(self, pixels: Tensor, numbers: Tensor) -> None:
        """Keep the smallest keys, each image once."""
        chosen = self._choose(numbers)
        self._pixels = pixels[torch.tensor(list(chosen.values()), dtype=torch.int64)]
        self._numbers = torch.tensor(list(chosen), dtype=torch.int64)

    def _choose(self, numbers: Tensor) -> dict[int, int]:
        """Return the numbers of the smallest keys, each once, and where they stand, in the order of the keys."""
        keys = {number: (mix(self._seed, _KEPT, number), row) for row, number in enumerate(numbers.tolist())}
        return {number: keys[number][1] for number in sorted(keys, key=keys.__getitem__)[:MOST]}
