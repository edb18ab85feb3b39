"""Batches of images: an endless training stream without state, and one ordered pass for evaluation.

Shapes: B batch of this worker, C channels, H W image.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from raykd.data.augment import AUGMENTATIONS
from raykd.data.datasets import Images
from raykd.data.spec import DataSpec
from raykd.errors import UsageError, unknown
from raykd.methods.base import Batch
from raykd.parallel import World, mix

_ORDER, _AUGMENT = 0, 1  # kinds of draws from one seed


class TrainStream:
    """Shuffled, augmented batches; the batch of a step is a pure function of (seed, step).

    Nothing needs saving, so a resumed run sees what the unbroken one would. Epochs follow each
    other without a short batch: every image comes once before any comes again. Each worker gets
    its rows of the global batch, which is the same for any number of workers.
    """

    def __init__(
        self,
        images: Images,
        spec: DataSpec,
        world: World,
        global_batch: int,
        seed: int,
        augment: Sequence[str] = (),
        teacher_logits: Tensor | None = None,
    ) -> None:
        """Prepare the stream; ``teacher_logits`` (N, K) are of the images as they are, so without augmentation.

        Raises:
            UsageError: if there is no image, an augmentation is unknown, or the workers do not
                divide the batch.
        """
        if not len(images.labels):
            raise UsageError(f"the training stream of {spec.name!r} has no images")
        for name in augment:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation", name, AUGMENTATIONS)
        assert teacher_logits is None or not augment, "the teacher has seen other images"
        self.images = images
        self._teacher_logits = teacher_logits
        self._rows = world.slice(global_batch)
        self._global_batch = global_batch
        self._seed = seed
        self._augmentations = [AUGMENTATIONS[name] for name in augment]
        self._input = _NetworkInput(spec, world.device)
        self._orders: dict[int, Tensor] = {}

    def batch(self, step: int) -> Batch:
        """Return this worker's batch of the step (0-based)."""
        indices = self._indices(step)
        pixels = self._input.load(self.images.pixels[indices])
        generator = torch.Generator().manual_seed(mix(self._seed, _AUGMENT, step))
        for augmentation in self._augmentations:
            pixels = augmentation(pixels, generator, self._global_batch, self._rows)
        known = self._teacher_logits
        return Batch(
            self._input.normalise(pixels),
            self._input.move(self.images.labels[indices]),
            None if known is None else self._input.move(known[indices]),
        )

    def _indices(self, step: int) -> Tensor:
        position = step * self._global_batch + self._rows.start
        left = self._rows.stop - self._rows.start
        count = len(self.images.labels)
        pieces = []
        while left:
            epoch, offset = divmod(position, count)
            piece = self._order(epoch)[offset : offset + left]
            pieces.append(piece)
            position += len(piece)
            left -= len(piece)
        return torch.cat(pieces)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(mix(self._seed, _ORDER, epoch))
            # The epoch before stays: batches that cross the border need both.
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = torch.randperm(len(self.images.labels), generator=generator)
        return self._orders[epoch]


def evaluation_batches(images: Images, spec: DataSpec, world: World, batch_size: int) -> Iterator[Batch]:
    """Yield this worker's share (rows rank, rank + size, ...) in order.

    ``batch_size`` is this worker's; the last batch may be shorter. Shares differ by at most one
    image, so sum counts over workers.
    """
    network_input = _NetworkInput(spec, world.device)
    pixels, labels = (
        images.pixels[world.rank :: world.size],
        images.labels[world.rank :: world.size],
    )
    for some_pixels, some_labels in zip(pixels.split(batch_size), labels.split(batch_size), strict=True):
        if len(some_labels):
            unit = network_input.load(some_pixels)
            yield Batch(network_input.normalise(unit), network_input.move(some_labels))


class _NetworkInput:
    """Takes 8-bit pixels to the device and into a network's range, not waiting for the device."""

    def __init__(self, spec: DataSpec, device: torch.device) -> None:
        self._device = device
        std = torch.tensor(spec.std, device=device).view(-1, 1, 1)
        self._scale = 1 / std
        self._shift = -torch.tensor(spec.mean, device=device).view(-1, 1, 1) / std

    def move(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            tensor = tensor.contiguous().pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def load(self, pixels: Tensor) -> Tensor:
        return self.move(pixels).to(torch.float32).div_(255)

    def normalise(self, unit: Tensor) -> Tensor:
        return torch.addcmul(self._shift, unit, self._scale)
