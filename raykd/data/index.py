"""OOD index: a file with the rows of a set that a run trains on, made once by `raykd ood` and named by recipes.

Parquet, one row per chosen image, the first the best: ``row`` in the split (int64), ``entropy`` in nats (float32) and
``predicted`` class (int64). Its metadata names the set and the teacher.

Shapes: N images chosen.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raykd.config.data_root import find_file
from raykd.data.datasets import count_images
from raykd.errors import CorruptError, MissingData, SetupError, UsageError
from raykd.files import check_depth, replacing

logger = logging.getLogger(__name__)

_FORMAT = "raykd.ood-index"


def write_index(path: Path, rows: Tensor, entropy: Tensor, predicted: Tensor, metadata: Mapping[str, Any]) -> None:
    """Write an index to ``path``, where it appears only when it is whole.

    Args:
        path: a missing folder is made.
        rows: int64 (N,), the best first.
        entropy: float32 (N,), in nats.
        predicted: int64 (N,), the teacher's classes.
        metadata: ``data``, ``of`` (images of its train split), ``teacher``, ``teacher_sha256`` and anything else a
            reader may want to know, as plain data.

    Raises:
        SetupError: if the disk does not take it.
    """
    columns = {"row": rows, "entropy": entropy, "predicted": predicted}
    metadata_json = json.dumps({**metadata, "sha256": _rows_sha256(rows)})
    table = pa.table({key: value.numpy() for key, value in columns.items()}, metadata={_FORMAT: metadata_json})
    try:
        check_depth(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as staging:
            pq.write_table(table, staging, compression="zstd")
    except OSError as error:
        raise SetupError(f"could not write {path} ({error}); free some space or give another place") from None


def best_rows(name: str, data: str, images: int | None, data_root: Path | None, teacher_sha256: str | None) -> Tensor:
    """Return the rows of the split that an index chose, or the best ``images`` of them, ascending.

    Raises:
        MissingData: if the file is not there.
        UsageError: if it ranks another set, or holds fewer images.
        CorruptError: if it is damaged.
    """
    advice = f"make it: raykd ood TEACHER --data {data} --out {name}"
    try:
        path = find_file(name, data_root, "index file", advice)
    except UsageError as error:
        raise MissingData(str(error)) from None
    try:
        table = pq.read_table(path)
        metadata = json.loads((table.schema.metadata or {})[_FORMAT.encode()])
        rows = torch.from_numpy(table.column("row").to_numpy().copy())
        if metadata["sha256"] != _rows_sha256(rows):
            raise ValueError("its rows are not those that were written")
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise CorruptError(f"{path} is no index of `raykd ood`, or is damaged ({error}); make it again") from None
    count = count_images(data, "train", data_root)
    if (metadata["data"], metadata["of"]) != (data, count):
        raise UsageError(
            f"{path} ranks {metadata['of']:,} images of {metadata['data']!r}; data.ood is {data!r} with {count:,}: "
            f"make another by `raykd ood TEACHER --data {data}`"
        )
    if images is not None and images > len(rows):
        raise UsageError(f"data.ood_images {images}: {path} holds {len(rows):,}; make it again with {images:,} images")
    if teacher_sha256 is not None and metadata["teacher_sha256"] != teacher_sha256:
        logger.warning("%s was ranked by another teacher (%s) than this run's", path, metadata["teacher"])
    return rows[:images].sort().values


def _rows_sha256(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().numpy().data).hexdigest()
