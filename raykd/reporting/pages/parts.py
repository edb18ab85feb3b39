"""What pages are put together from beside charts: facts, scales with marks, bars, tables. Plain data for templates."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import floor
from os.path import relpath
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from raykd.errors import printable

_LEAST_SPAN = 10.0  # per cent that a scale shows at least


@dataclass(frozen=True)
class Fact:
    """A name and a value, perhaps with what must be known of it."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class Head:
    """The head of a column."""

    name: str
    is_number: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell of a table; ``sort_key`` where it is sorted by other than its text."""

    text: str
    sort_key: float | None = None
    link: str | None = None
    is_state: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table; the reader's eye is led to the one that is ``is_own``."""

    cells: Sequence[Cell]
    is_own: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the reader may sort one that is ``sortable``, and a ``compact`` one is no wider than it must be."""

    columns: Sequence[Head]
    rows: Sequence[Row]
    kind: Literal["", "sortable", "compact"] = ""

    def filled(self) -> "Table":
        """Return the table without columns, the first aside, in which nothing stands."""
        kept = [i for i in range(len(self.columns)) if i == 0 or any(row.cells[i].text for row in self.rows)]
        rows = [Row([row.cells[i] for i in kept], row.is_own) for row in self.rows]
        return Table([self.columns[i] for i in kept], rows, self.kind)


@dataclass(frozen=True)
class Mark:
    """What a scale shows: a figure in per cent, perhaps with the least and the greatest of several."""

    name: str
    figure: float
    colour: str = "--series-8"
    low: float | None = None
    high: float | None = None
    is_own: bool = False
    is_hollow: bool = False
    value: str = ""
    link: str | None = None


@dataclass(frozen=True)
class Rung:
    """A mark, placed: per cent of the width of its scale."""

    name: str
    at: float
    low: float | None
    high: float | None
    colour: str
    value: str
    is_own: bool
    is_hollow: bool
    link: str | None


@dataclass(frozen=True)
class Scale:
    """Marks on a common scale from ``begin`` to ``end`` per cent."""

    begin: int
    end: int
    rungs: Sequence[Rung]


@dataclass(frozen=True)
class Part:
    """A bar's length, in per cent of the longest, and its colour."""

    share: float
    colour: str = "--series-1"


@dataclass(frozen=True)
class Bar:
    """A name, one bar or several below each other, and what they come to."""

    name: str
    value: str
    parts: Sequence[Part] = field(default_factory=tuple)


def make_scale(marks: Sequence[Mark]) -> Scale | None:
    """Return marks on a scale that ends at 100 and begins at the ten below the least; None without any."""
    if not marks:
        return None
    lowest = min(mark.figure if mark.low is None else mark.low for mark in marks)
    begin = max(0, 10 * floor((min(lowest, 100 - _LEAST_SPAN) - 2) / 10))

    def place(figure: float) -> float:
        return round(100 * (min(max(figure, begin), 100) - begin) / (100 - begin), 2)

    rungs = [
        Rung(
            mark.name,
            place(mark.figure),
            None if mark.low is None else place(mark.low),
            None if mark.high is None else place(mark.high),
            mark.colour,
            mark.value or f"{mark.figure:.2f}",
            mark.is_own,
            mark.is_hollow,
            mark.link,
        )
        for mark in marks
    ]
    return Scale(begin, 100, rungs)


def numbers(values: Iterable[float | None], digits: int = 2) -> list[Cell]:
    """Return cells of figures, empty ones of what was not measured."""
    return [Cell("") if value is None else Cell(f"{value:,.{digits}f}", value) for value in values]


def link_to(page: Path, start: Path) -> str | None:
    """Return the link from a page in the folder ``start`` to another one; None where that is not there."""
    if not page.is_file():
        return None
    # A colon would make the first part the scheme of an address.
    return quote(printable(relpath(page, start)))
