"""A published table, filled."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from raykd.results.base import Result, under
from raykd.results.run import SELECTIONS


@dataclass(frozen=True)
class Spread(Result):
    """A figure over seeds: mean and sample standard deviation."""

    mean: float
    sd: float


@dataclass(frozen=True)
class MeasuredCell(Result):
    """What was measured for a cell of a table, over its finished seeds.

    Attributes:
        seeds: those that are finished.
        selected: which selection counts.
        last, blind, best: figures by name, such as ``accuracy/top1``.
        teacher: mean accuracy of the teachers; None without one.
        images: of a run; ``data_opened`` likewise, and the ``warnings`` of all.
        seconds, gpu_hours, teacher_forwards: means over the seeds; the last are None where not counted.
    """

    seeds: list[int]
    selected: str
    last: Mapping[str, Spread]
    blind: Mapping[str, Spread]
    best: Mapping[str, Spread]
    teacher: float | None
    images: float | None
    seconds: float
    gpu_hours: float
    data_opened: Mapping[str, list[str]]
    warnings: list[str] | None = None
    teacher_forwards: float | None = None

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild what was measured from ``to_dict``, among other entries.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        own = {each.name: found[each.name] for each in fields(cls) if each.name in found}
        for name in SELECTIONS:
            own[name] = {str(key): Spread(float(one["mean"]), float(one["sd"])) for key, one in own[name].items()}
        for name in ("teacher", "images", "seconds", "gpu_hours", "teacher_forwards"):
            own[name] = None if own.get(name) is None else float(own[name])
        return cls(**own)


@dataclass(frozen=True)
class TableCell(Result):
    """A cell of a table: what the paper printed, and what was measured.

    Attributes:
        published, published_sd: the paper's figure, in per cent.
        state: finished, partial, missing, or ``published only``, where nothing is run.
        recipe, runs, steps, global_batch: what is run.
        reasons: why runs failed, by their ids.
        measured: None as long as no seed is finished.
    """

    published: float | None
    published_sd: float | None
    state: str
    recipe: str | None = None
    runs: list[str] | None = None
    reasons: Mapping[str, str] | None = None
    steps: int | None = None
    global_batch: int | None = None
    measured: MeasuredCell | None = under("", default=None)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a cell from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        own = {each.name: found[each.name] for each in fields(cls) if each.name in found}
        for name in ("published", "published_sd"):
            own[name] = None if own[name] is None else float(own[name])
        return cls(**own, measured=MeasuredCell.from_dict(found) if "seeds" in found else None)


@dataclass(frozen=True)
class TableRow(Result):
    """A method of a table, by column; a ``control`` tells how much of the figure is not the method's merit."""

    name: str
    control: bool
    note: str | None
    cells: Mapping[str, TableCell]


@dataclass(frozen=True)
class RunCounts(Result):
    """How many runs of a table are finished or failed, those that others build on among them, and how many it has."""

    finished: int
    failed: int
    wanted: int


@dataclass(frozen=True)
class TableResult(Result):
    """A published table, filled.

    Attributes:
        table, title, source: which it is.
        quick: whether at the reduced budget, and ``budget`` which that is.
        columns: what the reader sees of each column that is filled.
        rows: the methods.
        runs: how many.
        hardware: what runs were trained on.
        seconds, gpu_hours: sums over all runs.
        cost: of the workers' hours; None where no price is known.
        directory: where table.md and table.json are, where the caller is told it.
    """

    table: str
    title: str
    source: str
    quick: bool
    budget: str
    columns: Mapping[str, str]
    rows: list[TableRow]
    runs: RunCounts
    hardware: list[str]
    seconds: float
    gpu_hours: float
    cost: float | None
    directory: str | None = None

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a table from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        own = {each.name: found[each.name] for each in fields(cls) if each.name in found}
        rows = [
            TableRow(
                str(row["name"]),
                bool(row["control"]),
                row["note"],
                {str(column): TableCell.from_dict(cell) for column, cell in row["cells"].items()},
            )
            for row in found["rows"]
        ]
        runs = RunCounts(**{name: int(found["runs"][name]) for name in ("finished", "failed", "wanted")})
        seconds, gpu_hours = float(found["seconds"]), float(found["gpu_hours"])
        return cls(**{**own, "rows": rows, "runs": runs, "seconds": seconds, "gpu_hours": gpu_hours})
