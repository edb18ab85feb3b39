"""Read how runs go from their directories, as a local run and a Ray run both write them."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from raykd.files import read_text
from raykd.results import why_not_judged

if TYPE_CHECKING:
    from raykd.recipe.experiment import Experiment


# What a narrow terminal cuts off comes last, so the losses follow these.
_FIGURES = {"top-1": "accuracy/top1", "agreement": "agreement", "synthetic agreement": "blind/agreement"}


_STEP = re.compile(r"^\S+  step (\d+/\d+)  .*?(?:  ETA ([\d:]+))?$", re.MULTILINE)
_PACE = ("images_per_second", "steps_per_second")


@dataclass(frozen=True)
class RunUpdate:
    """One run's state: ``rows`` are the reports that had not been seen before."""

    run: str
    step: int
    steps: int
    rows: Sequence[dict[str, Any]]
    done: bool
    pace: float | None = None
    """Steps per second since it began here or went on; None before it is known."""

    def eta(self) -> float | None:
        """Return the seconds that are left at its pace, or at that of the newest report; None before both."""
        rate = self.pace or (self.rows[-1].get("steps_per_second") if self.rows else None)
        return (self.steps - self.step) / rate if rate else None


class Follower:
    """Looks at the runs that a command works at, one after another."""

    def __init__(self, runs: Sequence["Experiment"], read: Callable[[str], str]) -> None:
        """Remember the steps reported so far, which are not told again.

        ``read`` returns the content of a file of the store, by its path there; "" where there is none.
        """
        self._read = read
        self._since = time.time()
        statuses = {one.run_id: self._status(one.run_id) for one in runs}
        self._seen = {run: status.get("step", 0) for run, status in statuses.items()}
        self._rewinds = {run: len(status.get("rewinds") or []) for run, status in statuses.items()}
        self._ended: set[str] = set()

    def poll(self) -> list[RunUpdate]:
        """Return the runs that have been at work since this was made, in the order they run."""
        return [update for run in list(self._seen) if (update := self._update_of(run)) is not None]

    def _update_of(self, run: str) -> RunUpdate | None:
        status = self._status(run)
        if run in self._ended or status.get("updated", 0) < self._since or not {"step", "steps"} <= status.keys():
            return None
        done = status.get("state") != "running"
        if done:
            self._ended.add(run)
        rewinds = status.get("rewinds") or []
        if len(rewinds) > self._rewinds[run] and status.get("rewinding") is None:  # its rows are dropped by then
            self._rewinds[run], self._seen[run] = len(rewinds), rewinds[-1]["to"]
        rows = [row for row in self._rows(run) if row["step"] > self._seen[run]]
        now = 0 if done else status.get("current_step", 0)
        step = max(status["step"], now, rows[-1]["step"] if rows else 0)
        if rows:
            self._seen[run] = rows[-1]["step"]
        return RunUpdate(run, step, status["steps"], rows, done, None if done else status.get("steps_per_second"))

    def _status(self, run: str) -> dict[str, Any]:
        from raykd.store.run_directory import STATUS
        from raykd.store.status import parse_status

        return parse_status(self._read(f"{run}/{STATUS}"))

    def _rows(self, run: str) -> list[dict[str, Any]]:
        from raykd.store.rows import parse_rows
        from raykd.store.run_directory import METRICS

        rows = parse_rows(self._read(f"{run}/{METRICS}"))
        return [row for row in rows if all(isinstance(row.get(name), int | float) for name in _PACE)]


def read_local(where: str) -> Callable[[str], str]:
    """Return what reads the files of a store as this machine holds them."""
    from raykd.store.workspace import local_folder

    store = local_folder(where)

    def read(name: str) -> str:
        try:
            return read_text(store / name)
        except OSError:
            return ""

    return read


def read_remote(where: str) -> Callable[[str], str]:
    """Return what reads the files of an object store, as other machines write them."""
    from raykd.errors import RaykdError
    from raykd.store.remote import Remote

    @cache
    def opened() -> Remote:
        return Remote(where)

    def read(name: str) -> str:
        try:
            return (opened().try_read(name) or b"").decode(errors="replace")
        except RaykdError:  # the command itself says what is wrong
            return ""

    return read


def format_row(row: dict[str, Any]) -> str:
    """Write a report's figures on one line: pace, figures in per cent, loss parts."""
    parts = [f"{row['images_per_second']:,.0f} img/s"]
    for name, key in _FIGURES.items():
        if key in row:
            judged = not (key.startswith("blind/") and why_not_judged(row))
            parts.append(f"{name} {row[key]:.2f}%" if judged else f"{name} -")
    parts += [f"{k.removeprefix('loss/')} {v:.3g}" for k, v in row.items() if k.startswith("loss/")]
    return "  ".join(parts)


def format_step(run: str, step: int, steps: int, text: str, left: float | None) -> str:
    """Write how far a run is on one line of a log, with the seconds that are ``left`` where they are known."""
    eta = f"  ETA {format_duration(left)}" if left is not None and step < steps else ""
    return f"{run}  step {step}/{steps}  {text}{eta}"


def find_step(log: str) -> str | None:
    """Return how far the last line of ``format_step`` in a log says that a run is, as ``109/600, ETA 1:54``."""
    lines = list(_STEP.finditer(log))
    return None if not lines else lines[-1][1] + (f", ETA {lines[-1][2]}" if lines[-1][2] else "")


def format_pace(pace: float) -> str:
    """Write steps per second for a reader: of slow steps, how long one takes."""
    return f"{pace:.3g} steps/s" if pace >= 1 else f"{1 / pace:.3g} s/step"


def format_duration(seconds: float) -> str:
    """Write seconds as minutes:seconds, or with hours in front."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
