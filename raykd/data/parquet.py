"""Reading and writing image sets as Parquet: ``{split}-00000-of-0000N.parquet`` files.

Columns: ``image`` (binary) and ``label`` (int64). The schema's metadata says what the bytes are:
name, split, count, shape (JSON [H, W, C]), encoding ("raw uint8 ..." or any file format that PIL
reads) and classes (JSON list, index = label); mean and std (JSON lists) are there for sets that
raykd does not know by name, crop_pct where a part of the shorter side is to be cut out, part_of where the classes are
some of a larger set; synthetic ("true") for images that a generator made (see raykd.artifacts.synthetic_set).
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raykd.data.decode import decode
from raykd.distributed.host import cores_of_a_worker
from raykd.errors import CorruptError, ForeignFormat, RaykdError
from raykd.files import check_depth, describe, is_file
from raykd.spec import ClassSubset

RAW = "raw uint8, row-major, H*W*C bytes"
SHARD_BYTES = 60 * 2**20  # of image bytes: with labels and footers a file stays below 64 MiB
_FILE_NAME = re.compile(r"(?P<split>.+)-\d{5}-of-(?P<total>\d{5})\.parquet")
_SUM = "sha256"
_OWN = {"name", "count", "shape", "encoding", "classes"}  # keys of the metadata, of which others' files have none
_ROWS = 512  # read and decoded at a time
TASK_ROWS = 8
"""Image files that are decoded at a time."""
_RAW_ROWS = 64  # raw images of a task: what they become may be much larger
_MOST_DECODERS = 32
ADVICE = "write the set again"
"""What a user can do about a damaged file of a set."""

Fit = Callable[[Tensor], Tensor]
"""Maps uint8 pixels (B, C, H, W) to the one shape that the caller wants."""


@dataclass(frozen=True)
class Header:
    """The metadata of a file's images; ``shape`` is (H, W, C)."""

    name: str
    count: int
    shape: tuple[int, int, int]
    raw: bool
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    synthetic: bool = False
    crop_pct: float = 1.0
    part_of: ClassSubset | None = None
    data_opened: Mapping[str, Any] = field(default_factory=dict)
    """Of a synthetic set: what was opened, by role, for the generators that made it."""


def find_files(folder: Path, split: str) -> list[Path]:
    """Return a split's files in order; an empty list if there is none.

    Raises:
        CorruptError: if some of the files that belong together are missing.
    """
    matches = {path: match for path, match in _split_files(folder) if match["split"] == split}
    files = sorted(matches)
    if not files:
        return []
    total = int(matches[files[0]]["total"])
    expected = [folder / f"{split}-{index:05d}-of-{total:05d}.parquet" for index in range(total)]
    if files != expected:
        missing = sorted(path.name for path in set(expected) - set(files))
        extra = sorted(path.name for path in set(files) - set(expected))
        raise CorruptError(
            f"{folder}: the files of {split!r} do not form one set "
            f"(missing: {missing}; not of this set: {extra}); write the set again"
        )
    return files


def find_splits(folder: Path) -> list[str]:
    """Return the splits of which the folder has at least one file."""
    return sorted({match["split"] for _, match in _split_files(folder)})


def _split_files(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in folder.glob("*.parquet"):
        if match := _FILE_NAME.fullmatch(path.name):
            yield path, match


def read_header(file: Path) -> Header:
    """Read a file's metadata, and none of its images.

    Raises:
        ForeignFormat: if the file is sound, and of another format, such as Hugging Face's.
        CorruptError: if the file is damaged or its metadata incomplete.
    """
    metadata = read_metadata(file)
    if not is_own(metadata):
        raise foreign(file, file.parent)
    try:
        height, width, channels = json.loads(metadata["shape"])
        constants = {key: tuple(json.loads(metadata[key])) for key in ("mean", "std") if key in metadata}
        return Header(
            name=metadata["name"],
            count=int(metadata["count"]),
            shape=(height, width, channels),
            raw=metadata["encoding"].startswith("raw"),
            classes=tuple(json.loads(metadata["classes"])),
            mean=constants.get("mean"),
            std=constants.get("std"),
            synthetic=metadata.get("synthetic") == "true",
            crop_pct=float(metadata.get("crop_pct", 1)),
            part_of=_part_of(json.loads(metadata.get("part_of", "null")), len(json.loads(metadata["classes"]))),
            data_opened=dict(json.loads(metadata.get("data_opened", "{}"))),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"{file}: metadata is missing or wrong ({error!r}); write the set again") from error


def _part_of(found: Mapping[str, Any] | None, classes: int) -> ClassSubset | None:
    if found is None:
        return None
    subset = ClassSubset(int(found["classes"]), tuple(map(int, found["labels"])))
    if len(subset.labels) != classes or not all(0 <= label < subset.classes for label in subset.labels):
        raise ValueError("'part_of' has not one label of the larger set for each class")
    return subset


def read_metadata(file: Path) -> dict[str, str]:
    """Return all of a file's metadata as it was written.

    Raises:
        CorruptError: if the file is damaged.
    """
    with open_file(file) as opened:
        stored = (opened.schema_arrow.metadata or {}).items()
        found = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in stored}
        if _SUM in found and found.pop(_SUM) != _sum_of(found):
            raise ValueError("its metadata differs from its checksum")
        return found


def foreign(what: Path, source: Path) -> ForeignFormat:
    """Return the error for Parquet of another format, to be converted from the folder ``source``."""
    return ForeignFormat(
        f"{what} is Parquet of another format, such as Hugging Face's: convert it by "
        f"`raykd data parquet --source {quote(str(source))} --out DATA`, and set RAYKD_DATA to that folder"
    )


def is_own(metadata: Mapping[str, str]) -> bool:
    """Tell whether a file's metadata is of this format, complete or not."""
    return not metadata.keys().isdisjoint(_OWN)


def _sum_of(metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode()).hexdigest()


def check(file: Path) -> None:
    """Read all of a file, and keep nothing.

    Raises:
        CorruptError: if it is damaged.
    """
    with open_file(file) as opened:
        _check_count(sum(map(len, opened.iter_batches(_ROWS))), opened.metadata.num_rows)


def read(files: list[Path], fit: Fit) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (pixels, labels) in the files' order.

    Pixels are uint8 (B, C, S, S) as ``fit`` returns them, labels int64 (B,).

    Raises:
        CorruptError: if a file is damaged; it is named.
    """
    with ThreadPoolExecutor(count_decoders()) as pool:
        for file in files:
            header, first = read_header(file), 0
            with open_file(file) as opened:
                for batch in opened.iter_batches(_ROWS, columns=["image", "label"]):
                    rows = _encoded(file, header, batch, range(first, first + len(batch)))
                    yield torch.cat(list(pool.map(partial(decode_rows, fit=fit), rows.parts()))), rows.labels
                    first += len(batch)
                _check_count(first, opened.metadata.num_rows)


def count_decoders() -> int:
    """Return how many threads decode images in this process: its share of the cores that it may use."""
    return min(_MOST_DECODERS, cores_of_a_worker())


class EncodedRows(NamedTuple):
    """Images of a file as they lie in it, their numbers there, for messages, and their labels, int64 (B,)."""

    file: Path
    header: Header
    numbers: Sequence[int]
    images: list[bytes]
    labels: Tensor

    def parts(self) -> "Iterator[EncodedRows]":
        """Yield the rows in parts that are worth a task each: files take long, raw pixels next to nothing."""
        size = _RAW_ROWS if self.header.raw else TASK_ROWS
        for first in range(0, len(self.images), size):
            some = slice(first, first + size)
            yield EncodedRows(self.file, self.header, self.numbers[some], self.images[some], self.labels[some])

    def raw_pixels(self) -> Tensor:
        """Return the pixels, uint8 (B, C, H, W), of a file of raw ones."""
        return _from_raw(self.images, self.header.shape)

    def name(self, place: int) -> str:
        """Return what the image at a place of these is called in messages."""
        return f"{self.file}: image {self.numbers[place]}"


def decode_rows(rows: EncodedRows, fit: Fit) -> Tensor:
    """Return pixels, uint8 (B, C, S, S), as ``fit`` returns them.

    Raises:
        CorruptError: if an image is damaged.
    """
    if rows.header.raw:
        return fit(rows.raw_pixels())
    channels = rows.header.shape[2]
    return torch.cat([fit(decode(image, channels, rows.name(k), ADVICE)) for k, image in enumerate(rows.images)])


@contextmanager
def open_file(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a file, and say which one is damaged: the libraries below speak of bytes and pages only.

    Raises:
        CorruptError: if it cannot be opened, or what is read of it inside the block cannot be.
    """
    try:
        is_file(file)
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            yield opened
    except RaykdError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise CorruptError(f"{file} cannot be read ({describe(error)}); copy or write it again") from error


def row_groups(file: Path) -> list[int]:
    """Return how many images each row group of a file has; a group is the least that can be read.

    Raises:
        CorruptError: if the file is damaged.
    """
    with open_file(file) as opened:
        return [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]


def read_rows(file: Path, header: Header, group: int, rows: Tensor) -> EncodedRows:
    """Return some rows (int64) of a row group in the order given, not decoded.

    Raises:
        CorruptError: if the file is damaged.
    """
    with open_file(file) as opened:
        # Without threads of its own: this reads ahead of a training, beside it.
        table = opened.read_row_group(group, columns=["image", "label"], use_threads=False)
        _check_count(len(table), opened.metadata.row_group(group).num_rows)
        return _encoded(file, header, table.take(pa.array(rows.numpy())), rows.tolist())


def read_labels(files: Sequence[Path]) -> Tensor:
    """Return the labels, int64 (N,), of all rows of the files; reads no image.

    Raises:
        CorruptError: if a file is damaged.
    """
    found = []
    for file in files:
        with open_file(file) as opened:
            found.append(torch.from_numpy(opened.read(columns=["label"]).column("label").to_numpy().copy()))
    return torch.cat(found)


def _check_count(found: int, expected: int) -> None:
    """Refuse a file of whose rows the library has passed over some: the headers of its pages bear no sums."""
    if found != expected:
        raise ValueError(f"{found} of its {expected} rows can be read")


def _encoded(file: Path, header: Header, rows: pa.RecordBatch | pa.Table, numbers: Sequence[int]) -> EncodedRows:
    labels = torch.tensor(rows.column("label").to_pylist(), dtype=torch.int64)
    if ((labels < 0) | (labels >= len(header.classes))).any():
        raise ValueError(f"labels go beyond the {len(header.classes)} classes of the metadata")
    return EncodedRows(file, header, numbers, rows.column("image").to_pylist(), labels)


def write(
    folder: Path,
    split: str,
    records: Iterable[tuple[bytes, int]],
    metadata: Mapping[str, str],
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write (image, label) records shard by shard and return their number.

    Files carry a temporary name until all are complete, so a torn set is never taken for a whole
    one.
    """
    check_depth(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial: list[Path] = []
    written = 0
    try:
        for images, labels in _shards(records, shard_bytes):
            partial.append(folder / f".{split}-{len(partial):05d}.partial")
            columns = {"image": pa.array(images, pa.binary()), "label": pa.array(labels, pa.int64())}
            write_file(partial[-1], columns, metadata)
            written += len(images)
        for index, path in enumerate(partial):
            path.rename(folder / f"{split}-{index:05d}-of-{len(partial):05d}.parquet")
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
    return written


def write_file(
    path: Path, columns: Mapping[str, pa.Array], metadata: Mapping[str, str], *, group_bytes: int | None = None
) -> None:
    """Write one file of a split and see it to the disk; the columns are ``image``, ``label`` and any others.

    Its pages and its metadata bear their sums. ``group_bytes`` is for large images, as files that compress no more:
    about so much is in a row group, which is what a training reads at a time. If None, 1024 images are.
    """
    rows = _ROWS * 2
    compression: str | dict[str, str] = "zstd"
    if group_bytes is not None:
        each = max(1, columns["image"].nbytes // max(1, len(columns["image"])))
        rows = min(rows, max(1, group_bytes // each))
        compression = {"image": "none", "label": "zstd"}
    summed = {**metadata, _SUM: _sum_of(metadata)}
    table = pa.table(dict(columns)).replace_schema_metadata(summed)
    with path.open("wb") as file:
        pq.write_table(
            table,
            file,
            row_group_size=rows,
            compression=compression,
            use_dictionary=["label"],
            write_page_checksum=True,
        )
        file.flush()
        os.fsync(file.fileno())


def _shards(records: Iterable[tuple[bytes, int]], shard_bytes: int) -> Iterator[tuple[list[bytes], list[int]]]:
    images: list[bytes] = []
    labels: list[int] = []
    size = 0
    for image, label in records:
        if images and size + len(image) > shard_bytes:
            yield images, labels
            images, labels, size = [], [], 0
        images.append(image)
        labels.append(label)
        size += len(image)
    if images:
        yield images, labels


def _from_raw(images: list[bytes], shape: tuple[int, int, int]) -> Tensor:
    pixels = np.frombuffer(bytearray().join(images), dtype=np.uint8).reshape(len(images), *shape)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
