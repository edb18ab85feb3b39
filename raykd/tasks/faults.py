"""Faults of the machine, done on purpose to a command that trains: signals, a disk that is full, a damaged file."""

import os
import random
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raykd.store.checkpoint import is_checkpoint, step_of
from raykd.store.run_directory import RunDirectory

Kind = Literal["kill", "full disk", "damage", "terminate", "stop"]
Target = Literal["driver", "worker"]

KINDS: tuple[Kind, ...] = ("kill", "full disk", "damage", "terminate", "stop")
EXIT_CODES: dict[Kind, tuple[int, ...]] = {
    "kill": (-signal.SIGKILL,),
    "stop": (0,),
    "terminate": (128 + signal.SIGTERM,),
    "full disk": (3,),
    "damage": (-signal.SIGKILL,),
}
"""How the command ends under a fault of its own process; 0 too, if it was as good as finished."""
WORKER_EXIT_CODES = (0, 1, 3)
"""Likewise under one of a worker, which the command outlives unless workers keep dying or cannot write."""
_WORKER_NAMES = ("RayTrainWorker", "_train_alone", "ImplicitFunc", "run_trial")  # as Ray calls their processes
_STOP_SECONDS = (0.5, 3.0)
_DAMAGED_BYTES = 16
_ORPHAN_SECONDS = 30.0


@dataclass(frozen=True)
class Fault:
    """A fault to come.

    Attributes:
        kind: ``stop`` is SIGSTOP for a moment, then SIGCONT; ``terminate`` is SIGTERM; ``full disk`` lets no process
            below write another byte into a file; ``damage`` is SIGKILL, then other bytes in the newest checkpoint.
        target: whose process it is done to.
        report: reports of all runs that there are at least by then.
        moment: share of the time between two reports after which it comes, in [0, 1).
    """

    kind: Kind
    target: Target
    report: int
    moment: float


def plan_faults(kinds: Sequence[Kind], count: int, seed: int, reports: int, workers: bool) -> list[Fault]:
    """Draw faults, in their order, for a command that makes so many reports: each kind as often as the others."""
    drawn = random.Random(seed)
    order = [kinds[number % len(kinds)] for number in range(count)]
    drawn.shuffle(order)
    # Not behind the report before the last, after which the command may be finished before the fault comes.
    places = sorted(drawn.randrange(1, max(2, reports - 1)) for _ in order)
    targets: list[Target] = ["driver", "worker"]
    faults = []
    for number, (kind, place) in enumerate(zip(order, places, strict=True)):
        # Of a command on Ray, workers write, and each second one of the other faults is theirs.
        target = targets[kind == "full disk" or (kind in ("kill", "stop") and number % 2 == 0)] if workers else "driver"
        faults.append(Fault(kind, target, place, drawn.random()))
    return faults


def left_out(workers: bool) -> dict[str, str]:
    """Return the kinds of faults that are not tried, each with the reason."""
    found = {
        "store outage": "the store is a folder of this machine, which does not go away",
        "loss of a node": "this machine is the only one",
    }
    if not workers:
        found["faults of workers"] = "the command trains in its own process (--cluster local has workers)"
    elif not finds_workers():
        found["faults of workers"] = "this system does not tell who started a process"
    if not _can_fill_disks():
        found["full disk"] = "this system cannot limit the files of another process"
    return found


def possible_kinds() -> tuple[Kind, ...]:
    """Return the kinds of faults that this system can do."""
    return tuple(kind for kind in KINDS if kind != "full disk" or _can_fill_disks())


def finds_workers() -> bool:
    """Tell whether this system lets the workers of a command be found."""
    return Path("/proc/self/stat").is_file()


def workers_below(pid: int) -> list[int]:
    """Return the processes below one that train, as Ray calls them."""
    return [each for each in below(pid) if any(name in _command_line(each) for name in _WORKER_NAMES)]


def wait_for_end(pids: Sequence[int]) -> None:
    """Wait for processes to end, such as workers who go on for a moment when their driver is dead, but not for ever."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while any(map(_is_there, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").is_file()


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


def inject(fault: Fault, pid: int, drawn: random.Random) -> None:
    """Do it to the command ``pid``; of ``damage`` only the kill, since what is written may still be written again.

    Raises:
        ProcessLookupError: if the process has ended meanwhile, or there is no worker yet.
    """
    target = pid
    if fault.target == "worker":
        workers = workers_below(pid)
        if not workers:
            raise ProcessLookupError("no worker")
        target = drawn.choice(workers)
    if fault.kind == "full disk":
        _fill_disk([target] if fault.target == "driver" else workers_below(pid))
    elif fault.kind == "stop":
        os.kill(target, signal.SIGSTOP)
        time.sleep(drawn.uniform(*_STOP_SECONDS))
        os.kill(target, signal.SIGCONT)
    elif fault.kind == "terminate":
        os.kill(target, signal.SIGTERM)
    else:
        os.kill(target, signal.SIGKILL)


def checkpoints_of(run: RunDirectory) -> list[Path]:
    """Return the checkpoints of a run, the newest last."""
    return sorted(filter(is_checkpoint, run.checkpoints.glob("*")), key=step_of)


def damage(run: RunDirectory, drawn: random.Random) -> str:
    """Change some bytes in a file of the run's newest checkpoint; return its name."""
    newest = checkpoints_of(run)[-1]
    file = drawn.choice(sorted(path for path in newest.iterdir() if path.stat().st_size))
    content = bytearray(file.read_bytes())
    start = drawn.randrange(max(1, len(content) - _DAMAGED_BYTES))
    for place in range(start, min(start + _DAMAGED_BYTES, len(content))):
        content[place] ^= 0xFF
    file.write_bytes(content)
    return f"{newest.name}/{file.name}"


def _can_fill_disks() -> bool:
    import resource

    return hasattr(resource, "prlimit")


def _fill_disk(pids: Iterable[int]) -> None:
    """Let processes write no further byte into a file; the system answers as if it had grown too large."""
    import resource

    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""
