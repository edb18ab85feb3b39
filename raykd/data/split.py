"""A split of a source: what it holds, as a stream of records, and what becomes of them on their way into Parquet.

Nothing is held in memory but what the source itself holds; files are read one at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.data.decode import examine
from raykd.data.parquet import RAW
from raykd.data.pixels import fit
from raykd.errors import UsageError
from raykd.files import as_text, describe
from raykd.spec import DataSpec

SAMPLED = 1000
"""Images looked at for shape, mean and std."""
FILES = "files of the source, byte for byte; sizes and modes may vary"
"""How images that are kept as they are are encoded."""
_AT_ONCE = 128  # records held at a time
_SIDE = 224  # of images that differ in size
_ADVICE = "restore it, or remove it"
_COLOUR = "colours, where all that were sampled are grey: taken as grey"


class Record(NamedTuple):
    """An image, as a file or as raw pixels, its label, and what it is called in messages."""

    image: bytes
    label: int
    name: str


@dataclass(frozen=True)
class Split:
    """One split of a source; ``shape`` is (H, W, C), ``mean`` and ``std`` in units of [0, 1].

    ``remarks`` fills while records are read: what a user should know of them.
    """

    count: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    encoding: str
    records: Iterable[Record]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    remarks: "Remarks" = field(default_factory=lambda: Remarks())


class Remarks:
    """What is remarkable about some images: counted, with the first one's name. ``notes`` are lines about all."""

    def __init__(self) -> None:
        """Hold none yet."""
        self.notes: list[str] = []
        self._seen: dict[str, tuple[int, str]] = {}

    def add(self, remark: str, name: str) -> None:
        """Note a remark of one image."""
        count, first = self._seen.get(remark, (0, name))
        self._seen[remark] = count + 1, first

    def lines(self) -> list[str]:
        """Return the notes, and a line for each remark."""
        return self.notes + [describe_remark(remark, *seen) for remark, seen in self._seen.items()]


def describe_remark(remark: str, count: int, first: str) -> str:
    """Return a line about images of which something is remarkable: how many they are, and the first one's name."""
    return f"{count:,} image{'s have' if count > 1 else ' has'} {remark}: {'first ' if count > 1 else ''}{first}"


def split_from_arrays(pixels: NDArray[np.uint8], labels: Iterable[int], classes: Iterable[str]) -> Split:
    """Make a split of pixels (N, H, W, C) in memory."""
    count, height, width, channels = pixels.shape
    records = (
        Record(image.tobytes(), int(label), f"image {row}")
        for row, (image, label) in enumerate(zip(pixels, labels, strict=True))
    )
    return Split(count, (height, width, channels), tuple(classes), RAW, records)


def split_from_files(files: Sequence[tuple[Path, int]], shape: tuple[int, int, int], classes: tuple[str, ...]) -> Split:
    """Make a split of image files with their labels."""
    return Split(len(files), shape, classes, FILES, _read(files))


def measured_split(
    count: int, classes: tuple[str, ...], records: Iterable[Record], sample: Callable[[int], Iterable[Record]]
) -> Split:
    """Make a split of encoded images of which nothing is known, by what a sample of them shows.

    The shape is theirs, or 224 by 224 where they differ in size; one channel where all are grey. Mean and std per
    channel, to four digits, let each image weigh the same.

    Args:
        count: of the images.
        classes: their names.
        records: all of them.
        sample: gives every ``step``-th record.

    Raises:
        CorruptError, UsageError: if an image of the sample cannot be decoded.
    """
    sizes, channels, seen = set(), 1, 0
    moments = torch.zeros(2, 3, dtype=torch.float64)
    for image, _, name in sample(-(-count // SAMPLED)):
        unit = examine(image, name, _ADVICE).pixels.double() / 255
        moments += torch.stack([unit.mean((0, 2, 3)), unit.square().mean((0, 2, 3))]).expand(2, 3)
        sizes.add(tuple(unit.shape[-2:]))
        channels, seen = max(channels, unit.shape[1]), seen + 1
    moments = moments[:, :channels] / seen
    std = (moments[1] - moments[0].square()).clamp(min=1e-4).sqrt()
    height, width = sizes.pop() if len(sizes) == 1 else (_SIDE, _SIDE)
    return Split(count, (height, width, channels), classes, FILES, records, _rounded(moments[0]), _rounded(std))


def measured_split_from_files(files: Sequence[tuple[Path, int]], classes: tuple[str, ...]) -> Split:
    """Make a split of image files of which nothing is known.

    Raises:
        CorruptError, UsageError: as ``measured_split``.
    """
    return measured_split(len(files), classes, _read(files), lambda step: _read(files[::step]))


def checked(split: Split) -> Split:
    """Return the split as it is, each of its image files decoded on the way to see that it can be.

    Its records raise CorruptError, or UsageError for what is sound and cannot be taken.
    """
    if split.encoding == RAW:
        return split

    def check(record: Record) -> tuple[Record, Sequence[str]]:
        return record, _decoded(record, split)[1]

    return replace(split, records=_in_parallel(check, split))


def resized(split: Split, size: int) -> Split:
    """Return the split with its shorter sides resized to ``size`` and the centres cut out, as raw pixels.

    Its records raise CorruptError, or UsageError for what is sound and cannot be taken.
    """
    channels = split.shape[2]
    half = (0.5,) * channels
    spec = DataSpec("resized", len(split.classes), channels, size, half, half)

    def resize(record: Record) -> tuple[Record, Sequence[str]]:
        pixels, remarks = _decoded(record, split)
        image = fit(pixels, spec)[0].permute(1, 2, 0).contiguous().numpy().tobytes()
        return record._replace(image=image), remarks

    return replace(split, shape=(size, size, channels), encoding=RAW, records=_in_parallel(resize, split))


def _decoded(record: Record, split: Split) -> tuple[Tensor, Sequence[str]]:
    """Return a record's pixels, uint8 (1, C, H, W), and what is remarkable about it."""
    if split.encoding == RAW:
        pixels = torch.frombuffer(bytearray(record.image), dtype=torch.uint8).view(split.shape)
        return pixels.permute(2, 0, 1)[None], ()
    pixels, remarks = examine(record.image, record.name, _ADVICE)
    return pixels, (*remarks, _COLOUR) if pixels.shape[1] > split.shape[2] else remarks


def _in_parallel(work: Callable[[Record], tuple[Record, Sequence[str]]], split: Split) -> Iterator[Record]:
    rest = iter(split.records)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(rest, _AT_ONCE)):
            for record, remarks in pool.map(work, batch):
                for remark in remarks:
                    split.remarks.add(remark, record.name)
                yield record


def _read(files: Iterable[tuple[Path, int]]) -> Iterator[Record]:
    for path, label in files:
        try:
            yield Record(path.read_bytes(), label, as_text(path))
        except OSError as error:
            raise UsageError(f"{as_text(path)} cannot be read ({describe(error)}); complete the source") from error


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values.tolist())
