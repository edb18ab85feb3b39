"""Shuffled images from Parquet files of any size, in bounded memory.

The unit of reading is a *window*: row groups drawn at random from all files, ``buffer`` images together, which are
then shuffled among themselves. The order of an epoch is a pure function of (seed, epoch), so nothing needs saving and a
resumed run goes on in the middle of an epoch, having read one window. It does not depend on the number of workers
either: each decodes and holds the rows of a window that its shares of the global batches will take, and no others.
So are the parts of images that are shown instead of whole ones, where such are wanted.

Shapes: N images, C channels, S side of the network input.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from raykd.data import parquet, random_crop
from raykd.data.pixels import fit
from raykd.distributed.world import mix
from raykd.errors import UsageError
from raykd.spec import DataSpec

_GROUPS, _ROWS, _CROPS = 0, 1, 2  # kinds of draws from one seed
_AHEAD = 4  # row groups that are read while others are decoded


class _Chunk(NamedTuple):
    """Rows, int64 and ascending, of one row group of a file."""

    file: Path
    group: int
    rows: Tensor


class _Layout(NamedTuple):
    """The windows of an epoch, and the positions in the epoch's order at which they begin."""

    windows: list[list[_Chunk]]
    starts: list[int]


class _Window(NamedTuple):
    """This worker's images of a window: their positions in the epoch's order, pixels and labels."""

    positions: Tensor
    pixels: Tensor
    labels: Tensor


class StreamedImages:
    """The images of a split, a window at a time; at most two windows, this one and the next, are held."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        spec: DataSpec,
        *,
        buffer: int,
        rows: Tensor | None = None,
        seed: int,
        global_batch: int,
        share: slice,
        random_crop: bool = False,
    ) -> None:
        """Read how many images the files hold, and no image.

        Args:
            name: of the set, for messages.
            files: of the split, in order.
            spec: of the network's input.
            buffer: images of a window, of all workers together; it decides what is shuffled with what.
            rows: only these of the split, ascending; None for all.
            seed: of the order.
            global_batch: images of a batch, of all workers together.
            share: rows of every global batch that this worker takes.
            random_crop: show a random part of each image, another in every epoch (see ``raykd.data.random_crop``),
                instead of its centre.

        Raises:
            UsageError: if the buffer is smaller than a row group, which is what can be read at once.
            CorruptError: if a file is damaged.
        """
        self._spec, self._buffer, self._seed = spec, buffer, seed
        self._global_batch, self._share, self._random_crop = global_batch, share, random_crop
        self._headers = {file: parquet.read_header(file) for file in files}
        self._chunks: list[_Chunk] = []
        first = largest = 0
        for file in files:
            for group, size in enumerate(parquet.row_groups(file)):
                inside = torch.arange(size)
                if rows is not None:
                    inside = rows[(rows >= first) & (rows < first + size)] - first
                if len(inside):
                    self._chunks.append(_Chunk(file, group, inside))
                first, largest = first + size, max(largest, size)
        self.count = sum(len(chunk.rows) for chunk in self._chunks)
        if buffer < largest:
            raise UsageError(
                f"data.buffer {buffer} is less than what {name!r} has in one row group, {largest} images; "
                f"raise it to {largest} or more"
            )
        self._loader = ThreadPoolExecutor(1, "raykd-windows")
        self._decoders = ThreadPoolExecutor(parquet.count_decoders(), "raykd-decoders")
        self._windows: dict[tuple[int, int], Future[_Window]] = {}
        self._layouts: dict[int, _Layout] = {}

    def take(self, epoch: int, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return pixels uint8 (N, C, S, S) and labels int64 (N,) at positions [first, stop) of the epoch's order.

        All of them must be of this worker's share.
        """
        starts = self._layout(epoch).starts
        pieces = []
        for window in range(bisect_right(starts, first) - 1, bisect_left(starts, stop)):
            loaded = self._window(epoch, window)
            start, end = (int(torch.searchsorted(loaded.positions, position)) for position in (first, stop))
            pieces.append((loaded.pixels[start:end], loaded.labels[start:end]))
        pixels, labels = zip(*pieces, strict=True)
        return torch.cat(pixels), torch.cat(labels)

    def _window(self, epoch: int, window: int) -> _Window:
        """Return a window, and begin to load the one that follows it."""
        last = window + 1 == len(self._layout(epoch).windows)
        keys = ((epoch, window), (epoch + 1, 0) if last else (epoch, window + 1))
        self._windows = {key: future for key, future in self._windows.items() if key in keys}
        for key in keys:
            if key not in self._windows:
                self._windows[key] = self._loader.submit(self._load, *key, self._layout(key[0]))
        return self._windows[epoch, window].result()

    def _layout(self, epoch: int) -> _Layout:
        if epoch not in self._layouts:
            generator = torch.Generator().manual_seed(mix(self._seed, _GROUPS, epoch))
            windows: list[list[_Chunk]] = []
            room = 0
            for index in torch.randperm(len(self._chunks), generator=generator).tolist():
                chunk = self._chunks[index]
                if len(chunk.rows) > room:
                    windows.append([])
                    room = self._buffer
                windows[-1].append(chunk)
                room -= len(chunk.rows)
            sizes = (sum(len(chunk.rows) for chunk in window) for window in windows)
            starts = list(accumulate(sizes, initial=0))[:-1]
            # The epoch before stays: batches that cross the border need both.
            self._layouts = {e: layout for e, layout in self._layouts.items() if e == epoch - 1}
            self._layouts[epoch] = _Layout(windows, starts)
        return self._layouts[epoch]

    def _load(self, epoch: int, window: int, layout: _Layout) -> _Window:
        """Read and decode the images of a window that this worker will take, in the order in which it takes them."""
        chunks, start = layout.windows[window], layout.starts[window]
        sizes = [len(chunk.rows) for chunk in chunks]
        generator = torch.Generator().manual_seed(mix(self._seed, _ROWS, epoch, window))
        order = torch.randperm(sum(sizes), generator=generator)
        positions = start + torch.arange(len(order))
        batch_rows = (epoch * self.count + positions) % self._global_batch
        mine = (batch_rows >= self._share.start) & (batch_rows < self._share.stop)
        draws = (
            random_crop.draw(len(order), mix(self._seed, _CROPS, epoch, window))[mine] if self._random_crop else None
        )
        positions, order = positions[mine], order[mine]
        pixels = torch.empty(len(order), self._spec.channels, self._spec.size, self._spec.size, dtype=torch.uint8)
        labels = torch.empty(len(order), dtype=torch.int64)
        tasks: deque[tuple[Tensor, Future[Tensor]]] = deque()

        def store(at_most: int) -> None:
            while len(tasks) > at_most:
                targets, decoded = tasks.popleft()
                pixels[targets] = decoded.result()

        for chunk, offset in zip(chunks, accumulate(sizes, initial=0), strict=False):
            indices = ((order >= offset) & (order < offset + len(chunk.rows))).nonzero().flatten()
            if not len(indices):
                continue
            rows = chunk.rows[order[indices] - offset]
            encoded = parquet.read_rows(chunk.file, self._headers[chunk.file], chunk.group, rows)
            labels[indices] = encoded.labels
            before = len(tasks)
            for part in encoded.parts():
                targets, indices = indices[: len(part.labels)], indices[len(part.labels) :]
                some = None if draws is None else draws[targets]
                tasks.append((targets, self._decoders.submit(self._decode, part, some)))
            store((_AHEAD - 1) * (len(tasks) - before))
        store(0)
        return _Window(positions, pixels, labels)

    def _decode(self, rows: parquet.EncodedRows, draws: Tensor | None) -> Tensor:
        """Return the images, or the parts of them that their draws (B, D) choose, uint8 (B, C, S, S)."""
        if draws is None:
            return parquet.decode_rows(rows, partial(fit, spec=self._spec))
        if rows.header.raw:
            shown = [
                random_crop.crop_pixels(image, self._spec, some)
                for image, some in zip(rows.raw_pixels(), draws.tolist(), strict=True)
            ]
        else:
            shown = [
                random_crop.crop_file(image, self._spec, some, rows.name(place), parquet.ADVICE)
                for place, (image, some) in enumerate(zip(rows.images, draws.tolist(), strict=True))
            ]
        return torch.cat(shown)
