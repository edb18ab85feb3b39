"""Processes of this machine by who started them, as Linux tells it: those that train, and all below one."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_WORKER_NAMES = ("RayTrainWorker", "_train_alone", "ImplicitFunc", "run_trial")  # as Ray calls their processes
_ORPHAN_SECONDS = 30.0


def finds_workers() -> bool:
    """Tell whether this system lets the workers of a command be found."""
    return Path("/proc/self/stat").is_file()


def workers_below(*pids: int) -> list[int]:
    """Return the processes below some that train, as Ray calls them."""
    found = {each for pid in pids for each in below(pid)}
    return sorted(each for each in found if any(name in _command_line(each) for name in _WORKER_NAMES))


def wait_for_end(pids: Sequence[int]) -> None:
    """Wait for processes to end, such as workers who go on for a moment when their driver is dead, but not for ever."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while any(map(_is_there, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)


def below(pid: int) -> list[int]:
    """Return the processes that one has started, and that these have, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        own = children.get(left.pop(), [])
        found += own
        left += own
    return sorted(found)


def end_below(name: str, seconds: float) -> None:
    """End the processes of a name that this one has started: asked first, and killed after some ``seconds``."""
    found = [pid for pid in below(os.getpid()) if name in _command_line(pid)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while any(map(_is_at_work, found)) and time.monotonic() < deadline:
            time.sleep(0.05)


def _is_at_work(pid: int) -> bool:
    """Tell whether a process has not ended, be it still to be waited for."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    return False


def kill_with_all_below(pid: int) -> None:
    """Kill a process and all below it, as if their machine had lost its power."""
    for each in [pid, *below(pid)]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def has_open(pid: int, folder: Path) -> bool:
    """Tell whether a process has a file of a folder open, such as the lock of the run that it trains."""
    with suppress(OSError):  # it ended meanwhile
        return any(folder.resolve() in Path(os.readlink(file)).parents for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").is_file()


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""
