"""Read what Weights & Biases has written: protobuf records in the log format of LevelDB, behind seven bytes."""

import json
import struct
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _PREAMBLE = 32768, 7, 7
_LAST = (1, 4)  # types of chunks that end a record: a whole one, and the last part


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a ``.wandb`` file."""
    proto: Any = import_module("wandb.proto.wandb_internal_pb2")  # without annotations
    content, at, parts = path.read_bytes(), _PREAMBLE, b""
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # padding
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + _HEADER])
        if at + _HEADER + length > len(content):  # it is being written
            return
        parts += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in _LAST:
            record = proto.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def ended_files(folder: Path, count: int) -> list[Path]:
    """Return the files below a folder, oldest first, once ``count`` of them are whole: another process writes them."""
    deadline = time.monotonic() + 120
    while True:
        files = sorted(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.parent.name)
        ended = [path for path in files if any(record.HasField("exit") for record in records(path))]
        if len(ended) == count:
            return ended
        assert time.monotonic() < deadline, f"{len(ended)} of {len(files)} files are whole"
        time.sleep(0.1)


def history(path: Path) -> list[dict[str, Any]]:
    """Return the logged rows of a file."""
    rows = [record.history for record in records(path) if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]
