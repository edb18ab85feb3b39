"""What goes to stdout: one JSON object, or tables for a reader."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from raykd.errors import one_line, printable

if TYPE_CHECKING:
    from raykd.results import Figures

COLUMNS = {
    "top1": "top-1 %",
    "top5": "top-5 %",
    "agreement": "agreement %",
    "kl": "KL nats",
    "ece": "ECE %",
    "synthetic_agreement": "synthetic agreement %",
}
_WIDTH_IN_A_PIPE = 120


def echo(text: str, *, err: bool = False) -> None:
    """Print one line in which there may be text from outside."""
    click.echo(one_line(text), err=err)


def print_text(text: str) -> None:
    """Print lines in which there may be text from outside, such as a file's."""
    click.echo(printable(text))


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line; a number that is not finite, which JSON has none of, is null."""
    click.echo(json.dumps(_with_null(value), allow_nan=False))


def _with_null(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _with_null(inner) for name, inner in value.items()}
    return [_with_null(inner) for inner in value] if isinstance(value, list | tuple) else value


def format_figure(value: float | None, sd: float | None = None) -> str:
    """Write a figure for a table, with its standard deviation if there is one."""
    if value is None:
        return ""
    return f"{value:.2f}" if sd is None else f"{value:.2f} ± {sd:.2f}"


def format_figures(figures: "Figures", sd: "Figures | None" = None) -> list[str]:
    """Write a network's figures for a row of a table, in the order of ``COLUMNS``."""
    return [format_figure(getattr(figures, name), getattr(sd, name, None)) for name in COLUMNS]


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> None:
    """Print a table: the first column left, others right-aligned where they are numbers, empty ones left out."""
    from rich.table import Table
    from rich.text import Text

    lines = [list(row) for row in rows]
    kept = [i for i, _ in enumerate(columns) if i == 0 or any(line[i] for line in lines)]
    table = Table(title=Text(one_line(title)), title_justify="left")
    for index in kept:
        table.add_column(
            Text(one_line(columns[index])), justify="right" if index and numbers else "left", overflow="fold"
        )
    for line in lines:
        table.add_row(*(Text(one_line(line[index])) for index in kept))
    _print(table)


def print_columns(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below the names of their columns, one line each, however wide: a name can be taken from there."""
    lines = [list(columns), *([one_line(text) for text in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        echo("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values in two columns; a value is never cut."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        echo(f"{name:<{width}}  {value}")


def format_count(value: float) -> str:
    """Write a whole number with separators."""
    return f"{value:,.0f}"


def _print(renderable: object) -> None:
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_IN_A_PIPE
    Console(file=sys.stdout, width=width).print(renderable)
