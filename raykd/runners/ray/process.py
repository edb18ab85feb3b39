"""A look at a process of this machine by its id. Imports nothing, since Ray starts a process for it."""

import os
import signal
from typing import Literal

State = Literal["gone", "stopped", "at work", "ended"]


def start_time(pid: int) -> str | None:
    """Return when a process began, by the kernel's clock, so that its id is not taken for a later one's."""
    fields = _fields(pid)
    return fields[19] if fields else None


def examine(pid: int, started: str | None, end: bool) -> State:
    """Tell how a process is that began at ``started``; end it at once if ``end`` says so and it is there."""
    fields = _fields(pid)
    if started is not None and (fields is None or fields[19] != started or fields[0] in "ZX"):
        return "gone"
    try:
        os.kill(pid, signal.SIGKILL if end else 0)
    except ProcessLookupError:
        return "gone"
    if end:
        return "ended"
    return "stopped" if fields and fields[0] in "Tt" else "at work"


def _fields(pid: int) -> list[str] | None:
    """Return what Linux tells of a process behind its name, the state first; None elsewhere or where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
