"""Table: which runs make up a published table. A file of data; a new table needs no code.

A row is a method or a control, a column a pair of networks or a data set. A cell names the recipe that fills it, the
fields in which its run differs from that recipe, and the figure that the paper printed. ``quick`` is a second, reduced
and *stated* budget for the same cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError, model_validator

from raykd.config.base import Config
from raykd.config.catalog import TABLES
from raykd.config.overrides import override_pairs
from raykd.config.yaml_file import explain, load_yaml
from raykd.errors import UsageError
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe


class QuickCell(Config):
    """How a cell differs at the reduced budget: ``overrides`` are laid over the cell's own."""

    recipe: str | None = Field(default=None, description="another recipe; the cell's own overrides are then left out")
    overrides: dict[str, Any] = Field(default={}, description="dotted fields of the recipe")
    skip: bool = Field(default=False, description="not run at the reduced budget")


class Cell(Config):
    """One figure: the run that measures it, what the paper printed, or both."""

    recipe: str | None = Field(default=None, description="whose runs fill the cell; default: only the paper's figure")
    overrides: dict[str, Any] = Field(default={}, description="dotted fields of the recipe")
    published: float | None = Field(default=None, description="in per cent")
    published_sd: float | None = Field(default=None, ge=0, description="its standard deviation, in points")
    quick: QuickCell = Field(default=QuickCell(), description="how it differs at the reduced budget")


class Row(Config):
    """One method of the table, in all columns where it has a figure."""

    name: str = Field(description="what the reader sees")
    control: bool = Field(default=False, description="tells how much of the figure is not the method's merit")
    note: str | None = Field(default=None, description="what the reader should know of it")
    cells: dict[str, Cell] = Field(min_length=1, description="by column")


class Quick(Config):
    """The reduced budget of the whole table."""

    budget: str = Field(description="what is reduced, for the reader of the table")
    seeds: int = Field(default=1, gt=0, description="runs of each cell, from the recipe's seed up")
    columns: tuple[str, ...] = Field(default=(), description="those that are run; default: all")
    overrides: dict[str, Any] = Field(default={}, description="dotted fields, laid over every cell's")


class Table(Config):
    """A published table."""

    name: str = Field(description="that of its file")
    title: str = Field(description="what the reader sees")
    source: str = Field(description="paper and table")
    seeds: int = Field(default=1, gt=0, description="runs of each cell, from the recipe's seed up")
    columns: dict[str, str] = Field(min_length=1, description="key: what the reader sees")
    rows: tuple[Row, ...] = Field(min_length=1, description="methods and controls")
    quick: Quick | None = Field(default=None, description="the reduced budget, of `--quick`")

    @model_validator(mode="after")
    def _consistent(self) -> "Table":
        used_columns = {column for row in self.rows for column in row.cells}
        used_columns |= set(self.quick.columns) if self.quick else set()
        if unknown_columns := used_columns - set(self.columns):
            raise ValueError(
                f"column {sorted(unknown_columns)[0]!r} is not one of 'columns' ({', '.join(self.columns)})"
            )
        names = [row.name for row in self.rows]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two rows are called {sorted(repeated)[0]!r}")
        return self


@dataclass(frozen=True)
class Entry:
    """A cell with the runs that fill it, one for each seed; none where only the paper has a figure."""

    row: Row
    column: str
    cell: Cell
    runs: tuple[Experiment, ...]

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Return the ids of the runs."""
        return tuple(run.run_id for run in self.runs)


def load_table(source: str) -> Table:
    """Load a packaged table by name, or a file by path.

    Raises:
        UsageError: for an unknown name, key or value.
    """
    path = TABLES.find(source)
    raw = load_yaml(path)
    if "name" in raw:
        raise UsageError(f"{path}: 'name' is not a field here; a table is called like its file")
    try:
        return Table.model_validate({**raw, "name": path.stem})
    except ValidationError as error:
        raise explain(error, str(path), Table, raw) from None


def table_entries(table: Table, *, quick: bool, seeds: int | None = None) -> list[Entry]:
    """Return the cells of a table in the order of its rows, with the runs of the first ``seeds`` seeds.

    A run is what `raykd train` makes of the same recipe and overrides, without the recipe's controls.

    Raises:
        UsageError: if there is no reduced budget, or a cell's recipe or override is wrong, naming row and column.
    """
    if quick and table.quick is None:
        raise UsageError(f"table {table.name!r} has no reduced budget: fill it without quick")
    columns = (quick and table.quick and table.quick.columns) or tuple(table.columns)
    count = seeds or (table.quick.seeds if quick and table.quick else table.seeds)
    entries = []
    for row in table.rows:
        for column, cell in row.cells.items():
            if column not in columns:
                continue
            try:
                runs = _resolve_runs(cell, table.quick.overrides if quick and table.quick else None, count)
            except UsageError as error:
                raise UsageError(f"table {table.name!r}, row {row.name!r}, column {column!r}: {error}") from None
            entries.append(Entry(row, column, cell, runs))
    return [entry for entry in entries if entry.runs or entry.cell.published is not None]


def _resolve_runs(cell: Cell, reduced: Mapping[str, Any] | None, seeds: int) -> tuple[Experiment, ...]:
    """Resolve a cell's runs, one a seed; ``reduced`` are the overrides of all cells at the reduced budget, or None."""
    name, overrides = cell.recipe, cell.overrides
    if reduced is not None:
        name = cell.quick.recipe or name
        own = {} if cell.quick.recipe else overrides
        overrides = {**own, **reduced, **cell.quick.overrides}
    if name is None or (reduced is not None and cell.quick.skip):
        return ()
    experiment = resolve(load_recipe(name, override_pairs(overrides)).model_copy(update={"controls": ()}))
    return tuple(experiment.with_seed(seed) for seed in range(seeds))
