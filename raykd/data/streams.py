"""Batches of images: an endless training stream without state, and one ordered pass for evaluation.

Shapes: B batch of this worker, C channels, H W image.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from raykd.data.augment import augment_share, check_augmentations
from raykd.data.datasets import Images
from raykd.data.stored import StoredImages
from raykd.data.streamed import StreamedImages
from raykd.distributed.world import World, mix
from raykd.errors import UsageError
from raykd.spec import Batch, DataSpec

_ORDER, _AUGMENT = 0, 1  # kinds of draws from one seed


class TrainStream:
    """Shuffled, augmented batches; the batch of a step is a pure function of (seed, step).

    Nothing needs saving, so a resumed run sees what the unbroken one would. Epochs follow each
    other without a short batch: every image comes once before any comes again. Each worker gets
    its rows of the global batch, which is the same for any number of workers.
    """

    def __init__(
        self,
        images: Images | StreamedImages,
        spec: DataSpec,
        world: World,
        global_batch: int,
        seed: int,
        augment: Sequence[str] = (),
        *,
        teacher_logits: Tensor | None = None,
        weights: Tensor | None = None,
        per_step: int = 1,
    ) -> None:
        """Prepare the stream.

        Args:
            images: in memory, or read as they are needed, by this worker's share of the global batch.
            spec: of the network's input.
            world: which rows are this worker's.
            global_batch: images of a batch, of all workers together.
            seed: of order and augmentation.
            augment: names of augmentations, in order.
            teacher_logits: (N, K) of the images as they are, so without augmentation; of images in memory.
            weights: (N,) how often images come; then an epoch is N draws with replacement. Of images in memory.
            per_step: batches of a step, one after the other in the result.

        Raises:
            UsageError: if there is no image, an augmentation is unknown, or the workers do not
                divide the batch.
        """
        self.images = images
        self._count = images.count if isinstance(images, StreamedImages) else len(images.labels)
        if not self._count:
            raise UsageError(f"the training stream of {spec.name!r} has no images")
        check_augmentations(augment)
        assert teacher_logits is None or not augment, "the teacher has seen other images"
        self._teacher_logits, self._weights = teacher_logits, weights
        self._rows = world.slice(global_batch)
        self._global_batch, self._per_step = global_batch, per_step
        self._seed = seed
        self._augment = tuple(augment)
        self._input = _NetworkInput(spec, world.device)
        self._orders: dict[int, Tensor] = {}

    def batch(self, step: int) -> Batch:
        """Return this worker's batch of the step (0-based), or its batches in one."""
        first = step * self._per_step
        batches = [self._batch(number) for number in range(first, first + self._per_step)]
        if len(batches) == 1:
            return batches[0]
        images, labels, logits = zip(*batches, strict=True)
        return Batch(torch.cat(images), torch.cat(labels), None if logits[0] is None else torch.cat(logits))

    def _batch(self, number: int) -> Batch:
        pieces = [self._take(*piece) for piece in self._pieces(number)]
        some_pixels, some_labels, some_logits = zip(*pieces, strict=True)
        pixels = self._input.load(_joined(some_pixels))
        generator = torch.Generator().manual_seed(mix(self._seed, _AUGMENT, number))
        pixels = augment_share(pixels, self._augment, generator, self._global_batch, self._rows)
        logits = None if some_logits[0] is None else self._input.move(_joined(some_logits))
        return Batch(self._input.normalise(pixels), self._input.move(_joined(some_labels)), logits)

    def _pieces(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield (epoch, first, stop): the positions in epochs that are this worker's share of a batch."""
        position = number * self._global_batch + self._rows.start
        left = self._rows.stop - self._rows.start
        while left:
            epoch, first = divmod(position, self._count)
            stop = min(first + left, self._count)
            yield epoch, first, stop
            position += stop - first
            left -= stop - first

    def _take(self, epoch: int, first: int, stop: int) -> tuple[Tensor, Tensor, Tensor | None]:
        if isinstance(self.images, StreamedImages):
            return *self.images.take(epoch, first, stop), None
        rows, logits = self._order(epoch)[first:stop], self._teacher_logits
        return self.images.pixels[rows], self.images.labels[rows], None if logits is None else logits[rows]

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(mix(self._seed, _ORDER, epoch))
            # The epoch before stays: batches that cross the border need both.
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            if self._weights is None:
                self._orders[epoch] = torch.randperm(self._count, generator=generator)
            else:
                self._orders[epoch] = torch.multinomial(self._weights, self._count, True, generator=generator)
        return self._orders[epoch]


def evaluation_batches(images: Images | StoredImages, spec: DataSpec, world: World, batch_size: int) -> Iterator[Batch]:
    """Yield this worker's share (rows rank, rank + size, ...) in order.

    ``batch_size`` is this worker's; the last batch may be shorter, but is no single image behind others: there are
    networks that take none alone. Shares differ by at most one image, so sum counts over workers.
    """
    network_input = _NetworkInput(spec, world.device)
    labels = images.labels[world.rank :: world.size]
    whole, rest = divmod(len(labels), batch_size)
    sizes = [batch_size] * whole + [rest] * (rest > 0)
    if rest == 1 and whole and batch_size > 2:
        sizes[-2:] = [batch_size - 1, 2]
    pixels: Iterable[Tensor]
    if isinstance(images, StoredImages):
        pixels = images.batches(torch.arange(world.rank, len(images.labels), world.size), sizes)
    else:
        pixels = images.pixels[world.rank :: world.size].split(sizes)
    for some_pixels, some_labels in zip(pixels, labels.split(sizes), strict=True):
        unit = network_input.load(some_pixels)
        yield Batch(network_input.normalise(unit), network_input.move(some_labels))


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


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
