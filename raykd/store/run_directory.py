"""The directory of a run."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from raykd.store.checkpoint import write_text

METRICS = "metrics.jsonl"


def parse_rows(text: str) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; one that is half written is left out."""
    rows = []
    for line in text.splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def rewind_metrics(directory: Path, step: int) -> None:
    """Drop the lines after ``step``: a resumed run writes them again, and no step may appear twice."""
    path = directory / METRICS
    if path.is_file():
        rows = parse_rows(path.read_text(encoding="utf-8"))
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))


def write_status(directory: Path, **fields: Any) -> None:
    """Merge fields into status.json: state (running, interrupted, failed, finished), step, result."""
    status = {**read_status(directory), **fields, "updated": time.time()}
    write_text(directory / "status.json", json.dumps(status, indent=1))


def read_status(directory: Path) -> dict[str, Any]:
    """Return status.json, or an empty dict where there is none yet."""
    try:
        status: dict[str, Any] = json.loads((directory / "status.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return status
