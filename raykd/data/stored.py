"""Images of a split that are read from its files whenever they are wanted, in order: for splits too large to be held.

Shapes: N images of the split, B of a batch, C channels, S side of the network input.
"""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from raykd.data import parquet
from raykd.data.datasets import Images, find_split, load_images
from raykd.data.pixels import fit
from raykd.spec import DataSpec

_AHEAD = 256  # images that are decoded before they are wanted


class StoredImages:
    """A split's images, as a network of a spec wants them; only its labels are held.

    Attributes:
        labels: of all of them, int64 (N,).
    """

    def __init__(self, files: Sequence[Path], spec: DataSpec) -> None:
        """Read the labels.

        Raises:
            CorruptError: if a file is damaged.
        """
        self._files, self._spec = files, spec
        self.labels = parquet.read_labels(files)
        self._rows = torch.arange(len(self.labels))

    def select(self, rows: Tensor) -> "StoredImages":
        """Return some of the images: rows (int64), ascending."""
        some = copy.copy(self)
        some._rows, some.labels = self._rows[rows], self.labels[rows]
        return some

    def batches(self, rows: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        """Yield the pixels, uint8 (B, C, S, S), of rows (int64, ascending), as many of them at a time as ``sizes`` say.

        Raises:
            CorruptError: if a file is damaged.
        """
        held: list[Tensor] = []
        pieces = self._pieces(self._rows[rows])
        for size in sizes:
            while sum(map(len, held)) < size:
                held.append(next(pieces))
            joined = torch.cat(held)
            yield joined[:size]
            held = [joined[size:]]

    def _pieces(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield pixels of the rows in order, a few at a time; others are decoded meanwhile."""
        decode = partial(parquet.decode_rows, fit=partial(fit, spec=self._spec))
        tasks: deque[Future[Tensor]] = deque()
        ahead = 0  # images
        with ThreadPoolExecutor(parquet.count_decoders()) as pool:
            for encoded in self._encoded(rows):
                for part in encoded.parts():
                    tasks.append(pool.submit(decode, part))
                    ahead += len(part.images)
                    while ahead > _AHEAD:
                        done = tasks.popleft().result()
                        ahead -= len(done)
                        yield done
            while tasks:
                yield tasks.popleft().result()

    def _encoded(self, rows: Tensor) -> Iterator[parquet.EncodedRows]:
        first = 0
        for file in self._files:
            header = parquet.read_header(file)
            for group, size in enumerate(parquet.row_groups(file)):
                begin, end = (int(torch.searchsorted(rows, border)) for border in (first, first + size))
                if begin < end:
                    yield parquet.read_rows(file, header, group, rows[begin:end] - first)
                first += size


def stored_images(name: str, split: str, spec: DataSpec, data_root: Path | None) -> Images | StoredImages:
    """Open a split to be read whenever its images are wanted; an embedded set, which is small, is loaded.

    Raises:
        UsageError: if the files are not there.
        CorruptError: if one is damaged.
    """
    files = find_split(name, split, data_root)
    return StoredImages(files, spec) if files else load_images(name, split, spec, data_root)
