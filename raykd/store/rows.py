"""The rows of a run's reports: a line of JSON each, with the CRC-32 of its own content."""

import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_CHECK = "crc32"


def parse_rows(text: str) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics; a line that is none, half written or not as it was written, is left out.

    Files of earlier releases have no checks at all; of a file that has one, a row without is none.
    """
    found = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int) and not isinstance(row["step"], bool):
                found.append((row, row.pop(_CHECK, None)))
    is_checked = any(check is not None for _, check in found)
    return [row for row, check in found if not is_checked or check == _check_of(row)]


def format_row(row: Mapping[str, float]) -> str:
    """Return the line that ``parse_rows`` reads back."""
    return json.dumps({**row, _CHECK: _check_of(row)}) + "\n"


def _check_of(row: Mapping[str, float]) -> str:
    return f"{zlib.crc32(json.dumps(dict(row)).encode()):08x}"
