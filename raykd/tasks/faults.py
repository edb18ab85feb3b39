"""Faults done on purpose to a command that trains: signals, a full disk, a damaged file, a store or a node away."""

import os
import random
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raykd.distributed.processes import finds_workers, workers_below
from raykd.store.checkpoint import is_checkpoint, step_of
from raykd.store.run_directory import RunDirectory
from raykd.tasks.outage import Proxy, why_no_outage

Kind = Literal["loss", "kill", "full disk", "damage", "terminate", "stop", "outage"]
Target = Literal["driver", "worker", "store", "node"]

KINDS: tuple[Kind, ...] = ("kill", "full disk", "damage", "terminate", "stop", "outage")
"""Faults that one node can have; where there are several, ``loss`` comes before them."""
SAT_OUT: tuple[Kind, ...] = ("stop", "outage")
"""Faults that pass, and that the command waits for."""
EXIT_CODES: dict[Kind, tuple[int, ...]] = {
    "kill": (-signal.SIGKILL,),
    "stop": (0,),
    "outage": (0,),
    "terminate": (128 + signal.SIGTERM,),
    "full disk": (3,),
    "damage": (-signal.SIGKILL,),
}
"""How the command ends under a fault of its own process; 0 too, if it was as good as finished."""
WORKER_EXIT_CODES = (0, 1, 3)
"""Likewise under one of a worker or a node, which the command outlives unless workers keep dying or cannot write."""
_STOP_SECONDS = (0.5, 3.0)
_OUTAGE_SECONDS = (5.0, 20.0)
_DAMAGED_BYTES = 16


@dataclass(frozen=True)
class Fault:
    """A fault to come.

    Attributes:
        kind: ``stop`` is SIGSTOP for a moment, then SIGCONT; ``terminate`` is SIGTERM; ``full disk`` lets no process
            below write another byte into a file; ``damage`` is SIGKILL, then other bytes in the newest checkpoint;
            ``outage`` is an object store that does not answer for a while; ``loss`` is SIGKILL of a node of Ray and
            all on it, and another one in its place later.
        target: what it is done to.
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
    faults = []
    for number, (kind, place) in enumerate(zip(order, places, strict=True)):
        # Of a command on Ray, workers write, and each second one of the other faults is theirs.
        is_of_worker = workers and (kind == "full disk" or (kind in ("kill", "stop") and number % 2 == 0))
        target: Target = "worker" if is_of_worker else "driver"
        if kind in ("loss", "outage"):
            target = "node" if kind == "loss" else "store"
        faults.append(Fault(kind, target, place, drawn.random()))
    return faults


def left_out(workers: bool, store: str, nodes: bool = False) -> dict[str, str]:
    """Return the kinds of faults that are not tried, each with the reason."""
    found = {"loss of a node": "it trains on one; --nodes 2 starts several on this machine"}
    if nodes:
        found = {"loss of the head": "the command and Ray's records are on it: what is lost is a node with workers"}
    if reason := why_no_outage(store):
        found["store outage"] = reason
    if not workers:
        found["faults of workers"] = "the command trains in its own process (--cluster local has workers)"
    elif not finds_workers():
        found["faults of workers"] = "this system does not tell who started a process"
    if not _can_fill_disks():
        found["full disk"] = "this system cannot limit the files of another process"
    return found


def possible_kinds(store: str, nodes: bool = False) -> tuple[Kind, ...]:
    """Return the kinds of faults that can be done on this system to a command with this store, on several nodes."""
    possible = {"full disk": _can_fill_disks(), "outage": why_no_outage(store) is None, "loss": nodes}
    return tuple(kind for kind in ("loss", *KINDS) if possible.get(kind, True))


def inject(fault: Fault, pid: int, drawn: random.Random, proxy: Proxy | None = None, roots: Sequence[int] = ()) -> None:
    """Do it to the command ``pid``; of ``damage`` only the kill, since what is written may still be written again.

    An outage is one of the ``proxy``, through which the command reaches its store. One that passes is over on return.
    Workers are below one of ``roots``, by default the command. The loss of a node is done by ``LocalNodes``.

    Raises:
        ProcessLookupError: if the process has ended meanwhile, or there is no worker yet.
    """
    target, workers = pid, workers_below(*(roots or [pid]))
    if fault.target == "worker":
        if not workers:
            raise ProcessLookupError("no worker")
        target = drawn.choice(workers)
    if fault.kind == "full disk":
        _fill_disk([target] if fault.target == "driver" else workers)
    elif fault.kind == "outage":
        assert proxy is not None
        proxy.cut()
        time.sleep(drawn.uniform(*_OUTAGE_SECONDS))
        proxy.restore()
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
