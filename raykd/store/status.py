"""What stands in the status of a run: its state, its step and its result, as it may be read anywhere."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from raykd.files import parse_json
from raykd.results import RunResult

FINISHED = "finished"
Types = Mapping[str, type | tuple[type, ...]]
_NUMBER = (int, float)
_MOST = 2**63  # of whole numbers: what a run counts is far less, and a larger one is no float
STATUS_TYPES: Types = {
    "state": str, "step": int, "steps": int, "resumed_from": int, "updated": _NUMBER, "student_sha256": str,
    "result": dict, "warnings": list, "not_judged": (str, type(None)), "images_removed": str, "phases": dict,
    "rewinds": list, "rewinding": (int, type(None)), "current_step": int, "steps_per_second": (*_NUMBER, type(None)),
}  # fmt: skip
_RESULT_TYPES: Types = {
    "run": str, "selected": str, "seed": int, "images": int, "seconds": _NUMBER, "gpu_hours": _NUMBER,
    "data_opened": dict, "phases": dict,
}  # fmt: skip
ENVIRONMENT_TYPES: Types = {"teacher_sha256": (str, type(None)), "workers": int, "data_opened": dict}


def result_of(run_id: str, status: Mapping[str, Any]) -> RunResult | None:
    """Return the result in a run's status; None where it is not finished.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if what stands there is none.
    """
    found = status.get("result")
    if status.get("state") != FINISHED or not isinstance(found, dict):
        return None
    seed = found["seed"] if "seed" in found else _seed_of(run_id)
    result = RunResult.from_dict({"run": run_id, **found, "seed": seed})
    for name, figures in (*result.students.items(), ("teacher", result.teacher)):
        for key, value in ({} if figures is None else figures.to_dict()).items():
            if value is not None:
                check_number(f"result.{name}.{key}", value)
    for phase, seconds in (result.phases or {}).items():
        check_number(f"result.phases.{phase}", seconds)
    return result


def _seed_of(run_id: str) -> int:
    """Return the seed at the end of a run's id, by which results of before tell it.

    Raises:
        ValueError: if that is no such id, as of a folder that was renamed.
    """
    digits = run_id.rpartition("-s")[2]
    if not digits.isdecimal():
        raise ValueError(f"{run_id} is no run id, and the result does not tell its seed")
    return int(digits)


def check_number(name: str, value: object) -> None:
    """Refuse what is no number that a run, a search or a table writes.

    Raises:
        ValueError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, _NUMBER) or (isinstance(value, int) and abs(value) >= _MOST):
        raise ValueError(f"{name} is {str(value)[:40]}")


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
        if isinstance(found.get(key), int):
            check_number(f"{prefix}{key}", found[key])
    if isinstance(found.get("result"), dict):
        check_types(_RESULT_TYPES, found["result"], "result.")
    return found
