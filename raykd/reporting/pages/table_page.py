"""The page of a published table: what was published beside what was measured, on one scale a column."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.reporting.pages.facts import finite
from raykd.reporting.pages.page import render
from raykd.reporting.pages.parts import Fact, Mark, Scale, link_to, make_scale
from raykd.reporting.tables import METRIC, format_measured, format_published, list_notes, summarize_costs
from raykd.results import TableCell, TableResult
from raykd.store.run_directory import RunDirectory


@dataclass(frozen=True)
class Line:
    """A row of a column: texts, where its figures stand on the column's scale, and the pages of its runs.

    ``difference`` is measured less published, in points; ``is_own`` where the row is no control.
    """

    name: str
    note: str
    scale: Scale | None
    published: str
    measured: str
    difference: str
    teacher: str
    seeds: str
    budget: str
    seconds: str
    links: Mapping[str, str]
    is_own: bool


@dataclass(frozen=True)
class Column:
    """A column of the table with the ends of its scale, in per cent."""

    title: str
    lines: list[Line]
    begin: int
    end: int


def table_page(report: TableResult, store: Path, start: Path) -> str:
    """Return the page of a table, which is to lie in the folder ``start``; its runs are in the folder ``store``."""
    return render(
        "table",
        title=report.title,
        report=report,
        columns=[_column(report, key, title, store, start) for key, title in report.columns.items()],
        notes=list_notes(report),
        costs=[Fact(name, text) for name, text in summarize_costs(report).items()],
    )


def _column(report: TableResult, key: str, title: str, store: Path, start: Path) -> Column:
    cells = [(row, row.cells[key]) for row in report.rows if key in row.cells]
    marks = [_marks(cell, is_control=row.control) for row, cell in cells]
    whole = make_scale([mark for found in marks for mark in found])
    lines, at = [], 0
    for (row, cell), found in zip(cells, marks, strict=True):
        rungs = whole.rungs[at : at + len(found)] if whole is not None else []
        at += len(found)
        measured, figure = cell.measured, _figure(cell)
        lines.append(
            Line(
                row.name,
                "control" if row.control else "",
                Scale(whole.begin, whole.end, rungs) if whole is not None else None,
                format_published(cell),
                format_measured(cell),
                "" if figure is None or cell.published is None else _signed(figure[0] - cell.published),
                "" if measured is None or measured.teacher is None else f"{measured.teacher:.2f}",
                f"{len(measured.seeds)}, {measured.selected}" if measured is not None else "",
                f"{cell.steps:,} × {cell.global_batch:,}" if cell.steps is not None else "",
                f"{measured.seconds:,.0f}" if measured is not None else "",
                _links(cell, store, start),
                not row.control,
            )
        )
    return Column(title, lines, *((whole.begin, whole.end) if whole is not None else (0, 100)))


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _figure(cell: TableCell) -> tuple[float, float] | None:
    """Return mean and deviation of the student that counts, 0 for one that is not finite; None without a mean."""
    if cell.measured is None:
        return None
    spread = getattr(cell.measured, cell.measured.selected).get(METRIC)
    mean = None if spread is None else finite(spread.mean)
    return None if mean is None else (mean, finite(spread.sd) or 0.0)


def _marks(cell: TableCell, *, is_control: bool) -> list[Mark]:
    colour, found = "--series-2" if is_control else "--series-1", []
    if cell.published is not None:
        found.append(Mark("published", cell.published, colour, is_hollow=True))
    if (figure := _figure(cell)) is not None:
        mean, sd = figure
        found.append(Mark("measured", mean, colour, *((mean - sd, mean + sd) if sd else (None, None))))
    return found


def _links(cell: TableCell, store: Path, start: Path) -> dict[str, str]:
    """Return the pages of a cell's runs that are there, by their seeds."""
    found = {run: link_to(RunDirectory(store / run).page, start) for run in cell.runs or () if "/" not in run}
    return {run.rpartition("-s")[2]: link for run, link in found.items() if link is not None}
