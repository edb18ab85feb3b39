"""Show on stderr how a search goes: a live table on a terminal, a line per ended trial elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from raykd.reporting.follow import format_duration
from raykd.results import SearchResult

if TYPE_CHECKING:
    from rich.table import Table

Show = Callable[[SearchResult], None]


@contextmanager
def search_board() -> Iterator[Show]:
    """Yield the function that shows a search's report; call it with each newer one."""
    pace = _Pace()
    if not sys.stderr.isatty():
        yield _Lines(pace)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), redirect_stdout=False) as live:
        yield lambda report: live.update(_table(report, pace(report)))


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """Write a trial's values on a line."""
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in parameters.items())


class _Pace:
    """Tells the time left by the trials that have ended since the start of this command."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before: int | None = None

    def __call__(self, report: SearchResult) -> str:
        done = report.trials.ended
        if self._before is None:
            self._before = done
        here = done - self._before
        left = report.trials.target - done
        if not here or left <= 0:
            return ""
        return f"ETA {format_duration(left * (time.monotonic() - self._started) / here)}"


class _Lines:
    """Plain text, for pipes and log files."""

    def __init__(self, pace: _Pace) -> None:
        self._pace, self._shown = pace, -1

    def __call__(self, report: SearchResult) -> None:
        eta, done = self._pace(report), report.trials.ended
        if done == self._shown:
            return
        self._shown = done
        sys.stderr.write(f"{_counts(report)}{_best(report)}" + (f"  {eta}" if eta else "") + "\n")


def _counts(report: SearchResult) -> str:
    trials = report.trials
    states = ", ".join(f"{getattr(trials, state)} {state}" for state in ("complete", "pruned", "failed", "running"))
    return f"{trials.ended}/{trials.target} trials: {states}"


def _best(report: SearchResult) -> str:
    if not report.best:
        return ""
    values = "  ".join(f"{name} {value:.4g}" for name, value in report.best[0].values.items())
    return f"  best {values}"


def _table(report: SearchResult, eta: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{report.study}  {_counts(report)}  {eta}", title_justify="left")
    for column in ("trial", *report.objectives, "test top-1 %", "values"):
        table.add_column(column, justify="left" if column in ("trial", "values") else "right")
    for one in report.best[:5]:
        test = one.test_top1
        figures = [f"{value:.4g}" for value in one.values.values()]
        row = [str(one.trial), *figures, "" if test is None else f"{test:.2f}", format_parameters(one.parameters)]
        table.add_row(*map(Text, row))
    for trial in report.at_work:
        value = "" if trial.value is None else f"{trial.value:.4g}"
        blanks = [""] * (len(report.objectives) - 1)
        row = [f"{trial.trial} at work", value, *blanks, "", format_parameters(trial.parameters)]
        table.add_row(*map(Text, row), style="dim")
    return table
