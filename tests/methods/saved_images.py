"""Images of a pool as a checkpoint brings them back, without a disk."""

from collections.abc import Iterator

import torch
from torch import Tensor

from raykd.data.image_pool import PoolPart


class Saved(list[PoolPart]):
    """Parts in memory; ``decoded`` counts the images that were asked for."""

    decoded = 0

    def numbers(self) -> Iterator[Tensor]:
        """Yield the numbers, part by part."""
        return (part.numbers for part in self)

    def parts(self, wanted: Tensor | None = None) -> Iterator[PoolPart]:
        """Yield the parts, or what is wanted of them."""
        for part in self:
            rows = (
                torch.ones_like(part.numbers, dtype=torch.bool) if wanted is None else torch.isin(part.numbers, wanted)
            )
            self.decoded += int(rows.sum())
            yield PoolPart(*(None if values is None else values[rows] for values in part))  # type: ignore[arg-type]
