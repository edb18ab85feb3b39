"""The images of a pool on the disk: one Parquet file for each report of each worker, never written again.

<run>/pool/  images-<step>-<rank>.parquet ...  manifest.json (last, when the run is finished: the files' sha256 sums)

Which files count is what a checkpoint says; those of a report whose checkpoint was not written are left out, and
removed when the run goes on.

Columns: those of raykd.data.parquet; ``number`` (int64), an image's place in the whole pool; ``view_logits``
(fixed-size binary: V x K float16), of a pool with views.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raykd.data import parquet
from raykd.data.image_pool import PoolPart
from raykd.errors import CorruptError, UsageError
from raykd.files import (
    MANIFEST,
    damaged,
    is_file,
    make_folder,
    parse_content,
    read_json,
    replacing,
    sha256_of,
    write_json,
)
from raykd.store.checkpoint import Checkpoint, Sums, pool_files
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
    path = part_path(run, f"images-{checkpoint.step:07d}-{rank:05d}.parquet")
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


def read_parts(run: Path, files: Sums) -> Iterator[PoolPart]:
    """Yield the parts of a run's pool that a checkpoint, or the manifest, names, file by file.

    Raises:
        CorruptError: if one is missing, or differs from its sum.
    """
    for name, expected in sorted(files.items()):
        path = RunDirectory(run).pool / name
        if not is_file(path):
            raise damaged(path, "it is missing", _RESTORE)
        if sha256_of(path) != expected["sha256"]:
            raise damaged(path, "it differs from its checksum", _RESTORE)
        yield _read(path)


def _read(path: Path) -> PoolPart:
    with parquet.open_file(path) as opened:
        metadata = parquet.read_metadata(path)
        height, width, channels = json.loads(metadata[_SHAPE])
        table = opened.read(use_threads=False)
        pixels = _numbers(table["image"], np.dtype(np.uint8)).view(-1, height, width, channels).permute(0, 3, 1, 2)
        labels, numbers = (torch.from_numpy(table[name].to_numpy().copy()) for name in ("label", "number"))
        logits = None
        if _VIEWS in metadata:
            logits = _numbers(table["view_logits"], np.dtype(np.float16)).view(-1, *json.loads(metadata[_VIEWS]))
    return PoolPart(pixels.contiguous(), labels, numbers, logits)


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
    """The pool of a finished run."""

    run: RunDirectory
    manifest: Mapping[str, Any]

    def parts(self) -> Iterator[PoolPart]:
        """Yield all images, file by file.

        Raises:
            CorruptError: if one is damaged.
        """
        return read_parts(self.run.path, self.manifest["files"])


def open_pool(run: RunDirectory) -> PoolFiles:
    """Read the manifest of a run's pool.

    Raises:
        UsageError: if the run is not finished.
        CorruptError: if the manifest is damaged, or gone.
    """
    file = run.pool / MANIFEST
    if not is_file(file):
        if run.is_finished:
            raise CorruptError(f"{file} is missing, though the run is finished; {_RESTORE}")
        raise UsageError(f"run {run.name} has not finished its images; `raykd train` goes on with it")
    manifest = read_json(file, _RESTORE)

    def parse() -> PoolFiles:
        files = {str(name): {"sha256": str(each["sha256"])} for name, each in manifest["files"].items()}
        return PoolFiles(run, {**manifest, "files": files})

    return parse_content(file, _RESTORE, parse)  # type: ignore[no-any-return]


def _binary(rows: Any) -> pa.Array:
    """Return a matrix of bytes, one value for each row."""
    count, width = rows.shape
    offsets = pa.py_buffer(np.arange(0, (count + 1) * width, width, dtype=np.int64))
    return pa.Array.from_buffers(pa.large_binary(), count, [None, offsets, pa.py_buffer(np.ascontiguousarray(rows))])


def _numbers(column: pa.ChunkedArray, dtype: Any) -> Tensor:
    """Return the bytes of a column's values, one after the other, as numbers of a type."""
    return torch.from_numpy(np.frombuffer(bytearray().join(column.to_pylist()), dtype=dtype).copy())
