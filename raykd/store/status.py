"""What the objects in a run's records may hold: of a damaged file nothing gets further than where it is read."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from raykd.files import parse_json

Types = Mapping[str, type | tuple[type, ...]]
_NUMBER = (int, float)
STATUS_TYPES: Types = {
    "state": str, "step": int, "steps": int, "resumed_from": int, "updated": _NUMBER, "student_sha256": str,
    "result": dict, "warnings": list, "not_judged": (str, type(None)), "images_removed": str,
    "rewinds": list, "rewinding": (int, type(None)), "current_step": int, "steps_per_second": (*_NUMBER, type(None)),
}  # fmt: skip
_RESULT_TYPES: Types = {
    "run": str, "seed": int, "images": int, "seconds": _NUMBER, "gpu_hours": _NUMBER, "data_opened": dict,
}  # fmt: skip
ENVIRONMENT_TYPES: Types = {"teacher_sha256": (str, type(None)), "workers": int, "data_opened": dict}


def parse_status(text: str | bytes) -> dict[str, Any]:
    """Return the object in a status file's content, wherever it was read; empty where it is none."""
    with suppress(ValueError, RecursionError):
        return check_types(STATUS_TYPES, parse_json(text or "{}"))
    return {}


def check_types(types: Types, found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return an object; refuse values that no run writes.

    Raises:
        ValueError: naming one of them.
    """
    for key, kind in types.items():
        if key in found and (not isinstance(found[key], kind) or isinstance(found[key], bool)):
            raise ValueError(f"{prefix}{key} is {json.dumps(found[key])[:40]}")
    if isinstance(found.get("result"), dict):
        check_types(_RESULT_TYPES, found["result"], "result.")
    return found
