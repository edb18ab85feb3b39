"""What a store holds: a row for each run, search and table. Sizes in bytes, moments in seconds since 1970."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raykd.results.base import Result


@dataclass(frozen=True, kw_only=True)
class StoredRun(Result):
    """A run of a store.

    Attributes:
        run: its id.
        state: finished, running, killed (it ran, and no process is at it any more), interrupted, failed, pruned,
            unknown, or damaged.
        method, teacher, student: of its recipe; the networks by their models' names.
        step: of its last checkpoint.
        top1, agreement: of its blind-selected student, in per cent; None before it is finished.
        seconds: of training.
        ended: when it was finished, stopped or failed.
        size: of all its files.
        damaged: what of it is, and what to do; None if nothing is.
    """

    run: str
    state: str
    method: str | None = None
    teacher: str | None = None
    student: str | None = None
    step: int | None = None
    top1: float | None = None
    agreement: float | None = None
    seconds: float | None = None
    ended: float | None = None
    size: int
    damaged: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredSearch(Result):
    """A search of a store: how many of its trials have ended, and the best value of its first objective."""

    search: str
    recipe: str | None = None
    trials: int | None = None
    target: int | None = None
    objective: str | None = None
    best: float | None = None
    updated: float | None = None
    size: int
    damaged: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredTable(Result):
    """A table of a store: how many of its runs are finished."""

    table: str
    title: str | None = None
    finished: int | None = None
    wanted: int | None = None
    size: int
    damaged: str | None = None


@dataclass(frozen=True)
class Dependent(Result):
    """What builds on a run or was made of it: ``kind`` is run, search, table or set, ``role`` what the run is to it."""

    kind: str
    name: str
    role: str


@dataclass(frozen=True, kw_only=True)
class RunUsage(Result):
    """What a run holds on the disk, and what needs it.

    Attributes:
        run: its id.
        parts: bytes of checkpoints, samples, pool, bank, tensorboard, tracker, weights, report and records.
        size: their sum.
        dependents: what builds on it.
        uses: files of the store that it shares with other runs.
    """

    run: str
    parts: Mapping[str, int]
    size: int
    dependents: list[Dependent]
    uses: list[str]


@dataclass(frozen=True)
class StoreUsage(Result):
    """What a store holds on the disk.

    Attributes:
        store: its path or address.
        runs: what each holds.
        shared: bytes of the folders of what no run owns alone, such as ``weights``.
        size: of all; what several runs hold by links to one file counts once.
    """

    store: str
    runs: list[RunUsage]
    shared: Mapping[str, int]
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with the bytes of all runs by part."""
        return {**super().to_dict(), "parts": self.parts}

    @property
    def parts(self) -> dict[str, int]:
        """Return the bytes of each part, of all runs."""
        names = dict.fromkeys(name for run in self.runs for name in run.parts)
        return {name: sum(run.parts.get(name, 0) for run in self.runs) for name in names}
