"""The images of a pool on the disk: one Parquet file for each report of each worker, never written again.

<run>/pool/  images-<step>-<rank>.parquet ...  manifest.json (last, when the run is finished: the files' sha256 sums)

Which files count is what a checkpoint says; those of a report whose checkpoint was not written are left out, and
removed when the run goes on.

Columns: those of raykd.data.parquet; ``number`` (int64), an image's place in the whole pool; ``view_logits``
(fixed-size binary: V x K float16), of a pool with views.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raykd.data import parquet
from raykd.data.image_pool import PoolPart
from raykd.errors import MAX_SHOWN, CorruptError, UsageError
from raykd.files import (
    MANIFEST,
    check_names,
    damaged,
    is_file,
    make_folder,
    parse_content,
    read_json,
    replacing,
    sha256_of,
    write_json,
)
from raykd.store.checkpoint import IMAGES_REMOVED, Checkpoint, Sums, part_name, pool_files
from raykd.store.run_directory import RunDirectory

_RESTORE = "restore it from a backup, or move the run's folder away and train it again"
_SHAPE, _VIEWS = "shape", "views"


def part_path(run: RunDirectory, name: str) -> Path:
    """Return where a file of the pool lies."""
    return run.pool / name


def write_part(run: RunDirectory, checkpoint: Checkpoint, rank: int) -> Sums:
    """Write what this worker made since the checkpoint before, if anything; return the file's sum."""
    part = checkpoint.images
    if part is None:
        return {}
    make_folder(run.pool)
    path = part_path(run, part_name(checkpoint.step, rank))
    _, channels, height, width = part.pixels.shape
    rows = part.pixels.permute(0, 2, 3, 1).contiguous().numpy().reshape(len(part.pixels), -1)
    columns = {"image": _binary(rows), "label": pa.array(part.labels.numpy()), "number": pa.array(part.numbers.numpy())}
    metadata = {
        "name": f"{run.name}, images of step {checkpoint.step}",
        "split": "train",
        "count": str(len(rows)),
        _SHAPE: json.dumps([height, width, channels]),
        "encoding": parquet.RAW,
        "classes": json.dumps([str(label) for label in range(int(part.labels.max()) + 1)]),
        "synthetic": "true",
    }
    if part.view_logits is not None:
        _, views, classes = part.view_logits.shape
        columns["view_logits"] = _binary(part.view_logits.contiguous().numpy().reshape(len(rows), -1).view(np.uint8))
        metadata[_VIEWS] = json.dumps([views, classes])
    with replacing(path) as staging:
        parquet.write_file(staging, columns, metadata)
    return {path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}}


def sweep_parts(run: RunDirectory, checkpoint: Path | None) -> None:
    """Remove files of the pool that belong to no checkpoint up to the one that the run goes on from."""
    named = pool_files(checkpoint) if checkpoint is not None else {}
    for path in run.pool.glob("images-*.parquet"):
        if path.name not in named:
            with suppress(OSError):
                path.unlink()


def finish_pool(run: RunDirectory, checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a finished run's pool: the files of its last checkpoint, and ``facts`` of its images."""
    with run.writing():
        write_json(run.pool / MANIFEST, {**facts, "files": pool_files(checkpoint)})


@dataclass(frozen=True)
class PoolFiles:
    """The files of a run's pool that a checkpoint, or the manifest, names.

    Attributes:
        run: whose they are.
        files: their sums; each is hashed once, when something of it is first read.
        classes: how many the run's data have, where known: no label is above.
        manifest: of a finished run's pool.
    """

    run: RunDirectory
    files: Sums
    classes: int | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    _verified: set[Path] = field(default_factory=set)

    def numbers(self) -> Iterator[Tensor]:
        """Yield the numbers of all images, int64, file by file; no image is decoded.

        Raises:
            CorruptError: if a file is missing, or differs from its sum.
        """
        for path in self._paths():
            with parquet.open_file(path) as opened:
                yield _integers(opened.read(columns=["number"], use_threads=False), "number")

    def parts(self, wanted: Tensor | None = None, *, view_logits: bool = True) -> Iterator[PoolPart]:
        """Yield the images, some hundreds at a time.

        Args:
            wanted: numbers of those that are asked for; what has none of them is not decoded.
            view_logits: whether they are read, where there are any.

        Raises:
            CorruptError: if a file is missing, differs from its sum, or is not what it says.
        """
        for path in self._paths():
            metadata = parquet.read_metadata(path)
            with parquet.open_file(path) as opened:  # which says of an error in here that the file cannot be read
                shape = _sizes(metadata[_SHAPE], 3)
                views = _sizes(metadata[_VIEWS], 2) if _VIEWS in metadata and view_logits else None
                for group in range(opened.num_row_groups):
                    part = self._read(opened, group, shape, views, wanted)
                    if part is not None:
                        yield part

    def _paths(self) -> Iterator[Path]:
        for name, expected in sorted(self.files.items()):
            path = part_path(self.run, name)
            if path not in self._verified:
                if not is_file(path):
                    raise damaged(path, "it is missing", _RESTORE)
                if sha256_of(path) != expected["sha256"]:
                    raise damaged(path, "it differs from its checksum", _RESTORE)
                self._verified.add(path)
            yield path

    def _read(
        self, opened: Any, group: int, shape: Sequence[int], views: Sequence[int] | None, wanted: Tensor | None
    ) -> PoolPart | None:
        """Return what is wanted of a row group, if anything, of images (H, W, C) with logits (V, K)."""
        height, width, channels = shape
        numbers = _integers(opened.read_row_group(group, columns=["number"], use_threads=False), "number")
        rows = torch.ones_like(numbers, dtype=torch.bool) if wanted is None else torch.isin(numbers, wanted)
        if not rows.any():
            return None
        names = ["image", "label", *(["view_logits"] if views else [])]
        table = opened.read_row_group(group, columns=names, use_threads=False).filter(pa.array(rows.numpy()))
        labels = _integers(table, "label")
        if self.classes is not None and int(labels.max()) >= self.classes:
            raise ValueError(f"it has label {int(labels.max())}, and the run has {self.classes} classes")
        pixels = _numbers(table["image"], np.dtype(np.uint8), shape).permute(0, 3, 1, 2)
        logits = _numbers(table["view_logits"], np.dtype(np.float16), views) if views else None
        return PoolPart(pixels.contiguous(), labels, numbers[rows], logits)


def open_pool(run: RunDirectory, classes: int | None = None) -> PoolFiles:
    """Read the manifest of a run's pool; ``classes`` as in ``PoolFiles``.

    Raises:
        UsageError: if the run is not finished, or a search has removed its images.
        CorruptError: if the manifest is damaged, or gone.
    """
    file = run.pool / MANIFEST
    if not is_file(file):
        if run.is_finished and (by_whom := run.status().get(IMAGES_REMOVED)):
            raise UsageError(
                f"the images of run {run.name} were removed {by_whom}; a search keeps those of its best trials (`keep` "
                "in the search space). Train the run again in another store, by --out"
            )
        if run.is_finished:
            raise CorruptError(f"{file} is missing, though the run is finished; {_RESTORE}")
        raise UsageError(f"run {run.name} has not finished its images; `raykd train` goes on with it")
    manifest = read_json(file, _RESTORE)

    def parse() -> PoolFiles:
        files = {str(name): {"sha256": str(each["sha256"])} for name, each in manifest["files"].items()}
        if not files:
            raise ValueError("it names no files")
        check_names(files)
        if not isinstance(manifest["teacher_sha256"], str | None):
            raise ValueError(f"teacher_sha256 is {manifest['teacher_sha256']!r}")
        return PoolFiles(run, files, classes, manifest)

    return parse_content(file, _RESTORE, parse)  # type: ignore[no-any-return]


def _sizes(text: str, count: int) -> list[int]:
    """Return the sizes in a file's metadata.

    Raises:
        ValueError: if they are no whole numbers above 0, or not so many.
    """
    sizes = json.loads(text)
    if not isinstance(sizes, list) or len(sizes) != count or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"its images are of the shape {text[:MAX_SHOWN]}, and {count} whole numbers belong there")
    return sizes


def _integers(table: pa.Table, name: str) -> Tensor:
    """Return a column of whole numbers, none of them below 0, int64."""
    column = table[name]
    if column.type != pa.int64() or column.null_count:
        raise ValueError(
            f"its {name}s are {column.type} with {column.null_count} gaps, and int64 without any belong there"
        )
    values = torch.from_numpy(column.to_numpy().copy())
    if len(values) and int(values.min()) < 0:
        raise ValueError(f"it has {name} {int(values.min())}")
    return values


def _binary(rows: Any) -> pa.Array:
    """Return a matrix of bytes, one value for each row."""
    count, width = rows.shape
    offsets = pa.py_buffer(np.arange(0, (count + 1) * width, width, dtype=np.int64))
    return pa.Array.from_buffers(pa.large_binary(), count, [None, offsets, pa.py_buffer(np.ascontiguousarray(rows))])


def _numbers(column: pa.ChunkedArray, dtype: Any, shape: Sequence[int]) -> Tensor:
    """Return the values of a column, the bytes of numbers of a type, as a tensor (N, *shape)."""
    values, width = column.to_pylist(), math.prod(shape) * dtype.itemsize
    if wrong := [len(value) for value in values if len(value) != width]:
        raise ValueError(f"it has a value of {wrong[0]} bytes, and {list(shape)} {dtype} take {width}")
    return torch.from_numpy(np.frombuffer(bytearray().join(values), dtype=dtype)).view(-1, *shape)
