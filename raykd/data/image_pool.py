"""A pool of images that a method makes, batch by batch, and learns from: 8-bit pixels on the device.

Batch c of B images has the numbers c B to c B + B - 1; with several workers each makes, and holds, its rows of every
batch. A draw is uniform over the whole pool and a pure function of (seed, step), whoever holds the images: rows that
another worker holds come by an exchange. Of every batch one image in 32 is held out: no draw has it, and students are
judged on those.

Pixels are u = round(255 (x std + mean)), clipped to 0 and 255, so a pool outlives the constants of its teacher.

``views`` = V fixes V crops and flips of each image when it comes, and keeps the teacher's logits of these in half
precision (FKD: Shen and Xing, ECCV 2022, arXiv 2112.01528), so that a student's step asks no teacher.

Shapes: B images of a batch, b of them this worker's, n of a draw, C channels, H W image, K classes, V views.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from raykd.data.augment import PAD, cut_out, mirrored
from raykd.distributed.exchange import plan_exchange
from raykd.distributed.memory import free_device_memory
from raykd.distributed.world import World, mix
from raykd.errors import UsageError
from raykd.spec import DataSpec

Eviction = Literal["oldest", "random"]

_HELD_OUT_EVERY = 32
_DRAW, _VIEWS, _EVICT, _SAMPLE = 21, 22, 23, 24  # keep these draws apart from others of the same seed
_SHARE = 0.5  # of the device's free memory that a pool may take; above that it stays in main memory


class PoolPart(NamedTuple):
    """Images as they are kept on the disk: those that one worker made since the last checkpoint."""

    pixels: Tensor
    """uint8 (N, C, H, W)."""
    labels: Tensor
    """int64 (N,): what each image was made to show, or what the teacher sees in it."""
    numbers: Tensor
    """int64 (N,): each image's place in the whole pool, whoever made it."""
    view_logits: Tensor | None = None
    """float16 (N, V, K), of a pool with views."""


class SavedImages(Protocol):
    """The images that all workers of a run have saved up to a checkpoint."""

    def numbers(self) -> Iterator[Tensor]:
        """Yield the numbers of all, int64, in pieces; no image is decoded."""

    def parts(self, wanted: Tensor | None = None) -> Iterator[PoolPart]:
        """Yield the images in pieces: all, or those whose numbers are ``wanted``, int64."""


class PoolDraw(NamedTuple):
    """Rows of a draw that are this worker's."""

    images: Tensor
    """float32 (n, C, H, W) in network-input space; of a pool with views each is one of its views."""
    labels: Tensor
    """int64 (n,)."""
    teacher_logits: Tensor | None
    """float32 (n, K), of a pool with views."""


class Views(NamedTuple):
    """Where views are cut: corners int64 (..., 2) of 0 to 2 PAD, and whether they are mirrored, bool (...)."""

    corners: Tensor
    flips: Tensor

    def of(self, images: Tensor) -> Tensor:
        """Return the views of images (N, C, H, W) in [0, 1], for corners (N, 2)."""
        return mirrored(cut_out(images, self.corners), self.flips)


class ImagePool:
    """The images of the newest batches; see the module's text."""

    def __init__(
        self,
        spec: DataSpec,
        world: World,
        *,
        batch: int,
        batches: int,
        seed: int,
        eviction: Eviction = "oldest",
        views: int = 0,
        flips: bool = True,
    ) -> None:
        """Prepare an empty pool.

        Args:
            spec: of the images.
            world: who holds what of them.
            batch: B, which the workers share.
            batches: how many batches are held at most; then each new one takes the place of another.
            seed: of draws; of views and evictions too, unless ``load`` brings another.
            eviction: which batch goes, where there are too many.
            views: V; 0 keeps no views.
            flips: whether views may be mirrored.
        """
        self._spec, self._world, self._seed, self._eviction = spec, world, seed, eviction
        self._first_seed = seed  # of views, whose logits are kept, and of evictions
        self._batch, self._capacity, self._views, self._flips = batch, batches, views, flips
        self._share = world.share(batch)
        self._rows = world.slice(batch)
        rows = batches * self._share
        device = _home(rows * self.image_bytes, world.device)
        self._pixels = torch.empty(rows, spec.channels, spec.size, spec.size, dtype=torch.uint8, device=device)
        self._labels = torch.empty(rows, dtype=torch.int64, device=device)
        self._view_logits = torch.empty(rows, views, spec.num_classes, dtype=torch.float16, device=device)
        # Of all workers' images, for whoever draws them: corners and flips are drawn, and need no exchange.
        self._cuts = torch.empty(batches, batch, views, 3, dtype=torch.uint8)
        held_out = set(range(batch - 1, 0, -_HELD_OUT_EVERY))
        self._training_rows = torch.tensor([row for row in range(batch) if row not in held_out])
        self._held_out_rows = torch.tensor(sorted(held_out))
        self._slots: list[int] = []  # slot -> batch
        self._gone: list[PoolPart] = []  # batches that went before they were saved
        self._count = self._saved = 0

    def __len__(self) -> int:
        """Return how many images are held, of all workers together."""
        return len(self._slots) * self._batch

    @property
    def image_bytes(self) -> int:
        """Return how many bytes an image takes, its label, number and views' logits included."""
        spec = self._spec
        return spec.channels * spec.size**2 + 16 + 2 * self._views * spec.num_classes

    @property
    def batches(self) -> int:
        """Return how many batches there were, those that are gone included."""
        return self._count

    def append(self, images: Tensor, labels: Tensor, view_logits: Tensor | None = None) -> None:
        """Take this worker's rows of the next batch.

        Args:
            images: (b, C, H, W) in network-input space.
            labels: int64 (b,).
            view_logits: (b, V, K) of the views that ``next_views`` gives, for a pool with views.
        """
        self._place(self._count)
        self._write(self._count, slice(0, self._share), to_pixels(images, self._spec), labels, view_logits)
        self._count += 1

    def as_stored(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) in network-input space as the pool will show them, in [0, 1]."""
        return to_pixels(images, self._spec).float().div_(255)

    def next_views(self) -> Views:
        """Return the views of this worker's rows of the next batch: corners (b, V, 2) and flips (b, V)."""
        return _views(self._new_cuts(self._count)[self._rows])

    def draw(self, n: int, step: int) -> PoolDraw:
        """Return this worker's rows of a uniform draw, with replacement, of ``n`` images of the whole pool."""
        generator = Generator().manual_seed(mix(self._seed, _DRAW, step))
        training = self._training_rows
        positions = torch.randint(len(self._slots) * len(training), (n,), generator=generator)
        slots, rows = positions // len(training), training[positions % len(training)]
        views = torch.randint(max(1, self._views), (n,), generator=generator)
        share = self._world.share(n)
        parts = [slice(rank * share, (rank + 1) * share) for rank in range(self._world.size)]
        return self._fetch(slots, rows, views if self._views else None, parts)

    def held_out(self, n: int, seed: int) -> Tensor:
        """Return ``n`` held-out images (n, C, H, W) in network-input space, the same on every worker.

        Each comes once before any comes again. Every worker must call it.
        """
        generator = Generator().manual_seed(mix(seed, _SAMPLE))
        held = len(self._held_out_rows)
        total = len(self._slots) * held
        order = torch.cat([torch.randperm(total, generator=generator) for _ in range(-(-n // total))])[:n]
        slots, rows = order // held, self._held_out_rows[order % held]
        return self._fetch(slots, rows, None, [slice(0, n)] * self._world.size).images

    def unsaved(self) -> PoolPart | None:
        """Return all that has come since the last ``unsaved`` or ``load``, by number; None for nothing.

        What went meanwhile is among it: so the images of a run do not depend on when they are saved.
        """
        slots = (slot for slot, batch in enumerate(self._slots) if batch >= self._saved)
        parts = [*self._gone, *map(self._part, slots)]
        parts.sort(key=lambda part: int(part.numbers[0]))
        self._gone, self._saved = [], self._count
        if not parts:
            return None
        pixels, labels, numbers = (torch.cat(rows) for rows in zip(*(part[:3] for part in parts), strict=True))
        logits = [part.view_logits for part in parts if part.view_logits is not None]
        return PoolPart(pixels, labels, numbers, torch.cat(logits) if logits else None)

    def _part(self, slot: int) -> PoolPart:
        """Return this worker's rows of the batch in a slot, in main memory."""
        rows = slice(slot * self._share, (slot + 1) * self._share)
        numbers = self._slots[slot] * self._batch + torch.arange(self._rows.start, self._rows.stop)
        held = self._pixels[rows], self._labels[rows], self._view_logits[rows]
        pixels, labels, logits = (values.to("cpu", copy=True) for values in held)
        return PoolPart(pixels, labels, numbers, logits if self._views else None)

    def state_dict(self) -> dict[str, int]:
        """Return what ``load`` needs beside the parts: how many batches there were, and the seed of their views."""
        return {"batches": self._count, "seed": self._first_seed}

    def load(self, parts: Iterable[PoolPart], state: Mapping[str, int]) -> None:
        """Hold what the pool of ``state`` held, from the parts that all its workers saved; there may be others now.

        Raises:
            ValueError: if an image is missing that should be there, or they are of other shapes.
        """
        self._slots, self._gone, self._count = [], [], 0
        self._saved = state["batches"]  # from here on, so that what goes on the way is not kept
        self._first_seed = state["seed"]
        while self._count < self._saved:
            self._place(self._count)
            self._count += 1
        slots = {batch: slot for slot, batch in enumerate(self._slots)}
        missing = len(slots) * self._share
        for part in parts:
            self._check_shapes(part)
            for batch in (part.numbers // self._batch).unique().tolist():
                if batch not in slots:
                    continue
                row = part.numbers - batch * self._batch
                mine = (self._rows.start <= row) & (row < self._rows.stop)
                own = row[mine] - self._rows.start
                logits = None if part.view_logits is None else part.view_logits[mine]
                self._write(batch, own, part.pixels[mine], part.labels[mine], logits)
                missing -= len(own)
        if missing:
            raise ValueError(f"{missing} of its images are missing")

    def _check_shapes(self, part: PoolPart) -> None:
        views = self._view_logits.shape[1:] if part.view_logits is None else part.view_logits.shape[1:]
        found, held = (part.pixels.shape[1:], views), (self._pixels.shape[1:], self._view_logits.shape[1:])
        if found != held or (self._views and part.view_logits is None):
            raise ValueError(f"its images and their views' logits are {found}, and {held} belong there")

    def _place(self, batch: int) -> None:
        """Give a batch its slot: a new one, or that of a batch which goes; a pure function of seed and batch."""
        if len(self._slots) < self._capacity:
            slot = len(self._slots)
            self._slots.append(batch)
        else:
            place = batch if self._eviction == "oldest" else mix(self._first_seed, _EVICT, batch)
            slot = place % self._capacity
            if self._slots[slot] >= self._saved:
                # Waits for a device, whose memory is for what may be drawn: once in the many steps of a call.
                self._gone.append(self._part(slot))
            self._slots[slot] = batch
        if self._views:
            self._cuts[slot] = self._new_cuts(batch)

    def _new_cuts(self, batch: int) -> Tensor:
        """Draw the views of a whole batch, uint8 (B, V, 3): top, left, mirrored."""
        generator = Generator().manual_seed(mix(self._first_seed, _VIEWS, batch))
        shape = (self._batch, self._views)
        corners = torch.randint(0, 2 * PAD + 1, (*shape, 2), generator=generator)
        flips = torch.randint(0, 1 + self._flips, (*shape, 1), generator=generator)
        return torch.cat([corners, flips], dim=-1).to(torch.uint8)

    def _write(
        self, batch: int, rows: slice | Tensor, pixels: Tensor, labels: Tensor, view_logits: Tensor | None
    ) -> None:
        """Put pixels and what belongs to them into this worker's ``rows`` of a batch."""
        of_slot = slice(self._slots.index(batch) * self._share, (self._slots.index(batch) + 1) * self._share)
        self._pixels[of_slot][rows] = pixels.to(self._pixels.device)
        self._labels[of_slot][rows] = labels.to(self._labels.device)
        if self._views:
            assert view_logits is not None, "a pool with views is given their logits"
            self._view_logits[of_slot][rows] = view_logits.to(self._view_logits)

    def _fetch(self, slots: Tensor, rows: Tensor, views: Tensor | None, parts: Sequence[slice]) -> PoolDraw:
        """Return the images of this worker's part of the global rows that slots and rows, int64 (n,), name.

        Args:
            slots: which batch.
            rows: which image of it.
            views: which view of it, or None for the image as it is.
            parts: the rows that each worker is to have.
        """
        rank, device = self._world.rank, self._world.device
        exchange = plan_exchange(rows // self._share, parts, self._world)
        sent = exchange.own[exchange.positions]
        at = slots[sent] * self._share + rows[sent] - rank * self._share
        at = at.to(self._pixels.device, non_blocking=True)

        def exchanged(values: Tensor) -> Tensor:
            return exchange.perform(values.to(device, non_blocking=True), self._world)

        images = exchanged(self._pixels[at]).float().div_(255)
        labels = exchanged(self._labels[at])
        logits = None
        if views is not None:
            here = self._view_logits[at, views[sent].to(at.device, non_blocking=True)]
            logits = exchanged(here).float()
            part = parts[rank]
            images = _views(self._cuts[slots[part], rows[part], views[part]]).of(images)
        return PoolDraw(self._spec.normalise(images), labels, logits)


def _views(cuts: Tensor) -> Views:
    return Views(cuts[..., :2].long(), cuts[..., 2].bool())


def to_pixels(images: Tensor, spec: DataSpec) -> Tensor:
    """Map images (N, C, H, W) in network-input space to uint8 pixels, rounded, clipped where they leave [0, 1]."""
    return (spec.denormalise(images.detach().float()) * 255).round_().clamp_(0, 255).to(torch.uint8)


def require_known_pixels(spec: DataSpec, method: str) -> None:
    """Refuse to keep images of a teacher whose constants nobody has stated: their pixels would be cut off anywhere.

    Raises:
        UsageError: saying what to set.
    """
    if not spec.normalisation_known:
        raise UsageError(
            f"{method} keeps images as 8-bit pixels, and data {spec.name!r} has neither mean nor std, by which the "
            "teacher was shown them: set data.mean and data.std (`raykd inspect` tells what the teacher's first "
            "BatchNorm remembers)"
        )


def _home(size: int, device: torch.device) -> torch.device:
    """Return where to hold so many bytes: on the device where they take no more than a share of what is free there."""
    if device.type == "cpu" or size <= _SHARE * free_device_memory(device):
        return device
    return torch.device("cpu")
