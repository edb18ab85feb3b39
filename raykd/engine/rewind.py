"""Rewinds: a run that has failed goes on from its last good checkpoint, with halved rates and other noise.

Killed at any moment, it comes to the same: the record in the status is written first, in one move; checkpoints of
later steps are removed next, or when the run goes on; and ``rewinding`` is unset only when training begins anew.
"""

from typing import Any

from raykd.engine.finite import Unhealthy
from raykd.engine.sentinel import Sentinel
from raykd.store.checkpoint import newest_whole
from raykd.store.run_directory import RunDirectory

MOST_REWINDS = 3


def begin_rewind(run: RunDirectory, sentinel: Sentinel, error: Unhealthy) -> bool:
    """Note in the run's status, on rank 0, that it goes back; return whether it may once more.

    Raises:
        SetupError: if the disk does not take it.
    """
    rewinds = rewinds_of(run)
    if len(rewinds) >= MOST_REWINDS:
        return False
    step = newest_whole(run.checkpoints, sentinel.sound_step)
    with run.writing():
        run.write_status(rewinds=[*rewinds, {"to": step, "cause": str(error)}], rewinding=step)
    return True


def rewinding_to(run: RunDirectory) -> int | None:
    """Return the step that a rewind which was begun goes back to, until training goes on from there; else None."""
    step: int | None = run.status().get("rewinding")
    return step


def rewinds_of(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the rewinds of a run so far, each with the step that it went back ``to`` and its ``cause``."""
    return run.status().get("rewinds") or []


def describe_rewinds(rewinds: list[dict[str, Any]]) -> list[str]:
    """Return a warning for each."""
    return [f"rewound to step {one['to']}, with half the rates before: {one['cause']}" for one in rewinds]
