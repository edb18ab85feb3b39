"""Show on stderr how a run goes: live on a terminal, one plain line per report elsewhere."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from raykd.reporting.follow import (
    Follower,
    RunUpdate,
    format_duration,
    format_pace,
    format_row,
    format_step,
    read_local,
    read_remote,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

    from raykd.recipe.experiment import Experiment

_INTERVAL, _REMOTE_INTERVAL = 0.5, 2.0  # seconds
_LINE_SECONDS = 10.0  # without a report, after which a line says how far a run is
_BARS = 8  # more runs than these lose their bars when they end


class _Display(Protocol):
    def show(self, update: RunUpdate) -> None:
        """Show what is new."""

    def close(self) -> None:
        """Leave the terminal as it was."""


@contextmanager
def following(runs: Sequence["Experiment"], where: str, *, elsewhere: bool) -> Iterator[None]:
    """Show how ``runs`` go while the body works at them, perhaps on other machines (``elsewhere``)."""
    if int(os.environ.get("RANK", "0")):  # under torchrun one worker speaks
        yield
        return
    from raykd.store.remote import is_remote

    distant = elsewhere and is_remote(where)
    follower = Follower(runs, read_remote(where) if distant else read_local(where))
    display: _Display = _Live(len(runs) <= _BARS) if sys.stderr.isatty() else _Lines()
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(_REMOTE_INTERVAL if distant else _INTERVAL):
            _show(follower, display)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _show(follower, display)
        display.close()


def _show(follower: Follower, display: _Display) -> None:
    for update in follower.poll():
        display.show(update)


class _Lines:
    """Plain text, for pipes and log files: a line per report, and one in between where that takes long."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, float]] = {}  # step and time of a run's last line

    def show(self, update: RunUpdate) -> None:
        now = time.monotonic()
        for row in update.rows:
            left = (update.steps - row["step"]) / max(row["steps_per_second"], 1e-9)
            self._tell(update, row["step"], format_row(row), left)
        step, told_at = self._told.setdefault(update.run, (update.step, now))
        if not update.done and update.pace and update.step > step and now - told_at >= _LINE_SECONDS:
            self._tell(update, update.step, format_pace(update.pace), update.eta())

    def _tell(self, update: RunUpdate, step: int, text: str, left: float | None) -> None:
        sys.stderr.write(format_step(update.run, step, update.steps, text, left) + "\n")
        self._told[update.run] = (step, time.monotonic())

    def close(self) -> None:
        pass


class _Live:
    """A bar per run, and the newest figures below."""

    def __init__(self, keep_bars: bool) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
        from rich.text import Text

        console = Console(stderr=True)
        text = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), text, BarColumn(20), MofNCompleteColumn())
        self._bars = Progress(*columns, TextColumn("{task.fields[eta]}"), console=console)
        self._figures = Text("starting", no_wrap=True, overflow="ellipsis", style="dim")
        self._tasks: dict[str, TaskID] = {}
        self._keep_bars = keep_bars
        self._has_figures: set[str] = set()
        # Log lines go through stderr and appear above the bars; stdout is data and stays untouched.
        self._live = Live(Group(self._bars, self._figures), console=console, redirect_stdout=False)
        self._live.start()

    def show(self, update: RunUpdate) -> None:
        if update.run not in self._tasks:
            self._tasks[update.run] = self._bars.add_task(update.run, total=update.steps, eta="")
        if update.rows:
            self._figures.plain = "  " + format_row(update.rows[-1])
            self._has_figures.add(update.run)
        elif update.pace and update.run not in self._has_figures and not update.done:
            self._figures.plain = f"  {format_pace(update.pace)}, figures with the first report"
        task = self._tasks[update.run]
        self._bars.update(task, completed=update.step)
        eta = update.eta()
        if update.done or eta is not None:
            left = "" if update.done or eta is None else f"ETA {format_duration(eta)}"
            self._bars.update(task, eta=left, visible=self._keep_bars or not update.done)

    def close(self) -> None:
        self._figures.plain = ""
        self._live.stop()
