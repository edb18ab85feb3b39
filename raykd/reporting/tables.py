"""A published table beside what was measured: as plain data for a file, and as Markdown for a reader."""

from collections.abc import Mapping, Sequence

from raykd.errors import printable
from raykd.recipe.table import Entry, Table
from raykd.reporting.seeds import over_seeds
from raykd.results import (
    SELECTIONS,
    Figures,
    MeasuredCell,
    RunCounts,
    RunResult,
    Spread,
    TableCell,
    TableResult,
    TableRow,
)

METRIC = "accuracy/top1"


def table_report(
    table: Table,
    entries: Sequence[Entry],
    *,
    quick: bool,
    results: Mapping[str, RunResult],
    reasons: Mapping[str, str],
    hardware: Mapping[str, str],
    price_per_hour: float | None,
) -> TableResult:
    """Return the table as data: for each row and column what the paper printed and what was measured.

    Args:
        table: with the texts.
        entries: its cells, with their runs.
        quick: whether these are the runs of the reduced budget.
        results: of the runs that are finished, by run id, those that the cells build on among them.
        reasons: why others are not, by run id.
        hardware: what each finished run was trained on.
        price_per_hour: of one worker, for the cost; None leaves it out.

    Accuracies are in per cent, means and sample standard deviations over the finished seeds; ``seconds`` are those of
    training, summed over workers for the cost.
    """
    rows = []
    for row in table.rows:
        cells = {entry.column: _cell(entry, results, reasons) for entry in entries if entry.row is row}
        if cells:
            rows.append(TableRow(row.name, row.control, row.note, cells))
    columns = [column for column in table.columns if any(column in row.cells for row in rows)]
    seconds = sum(result.seconds or 0.0 for result in results.values())
    gpu_hours = sum(result.gpu_hours or 0.0 for result in results.values())
    return TableResult(
        table=table.name,
        title=table.title,
        source=table.source,
        quick=quick,
        budget=table.quick.budget if quick and table.quick else _budget(entries),
        columns={column: table.columns[column] for column in columns},
        rows=rows,
        runs=RunCounts(finished=len(results), failed=len(reasons), wanted=_count_runs(entries)),
        hardware=sorted(set(hardware.values())),
        seconds=round(seconds, 1),
        gpu_hours=round(gpu_hours, 3),
        cost=None if price_per_hour is None else round(seconds / 3600 * price_per_hour, 2),
    )


def _count_runs(entries: Sequence[Entry]) -> int:
    return len({run for entry in entries for run in entry.run_ids})


def _cell(entry: Entry, results: Mapping[str, RunResult], reasons: Mapping[str, str]) -> TableCell:
    published, published_sd = entry.cell.published, entry.cell.published_sd
    if not entry.runs:
        return TableCell(published, published_sd, "published only")
    ids = list(entry.run_ids)
    done = [results[run] for run in ids if run in results]
    recipe = entry.runs[0].recipe
    return TableCell(
        published,
        published_sd,
        state="finished" if len(done) == len(ids) else "partial" if done else "missing",
        recipe=recipe.name,
        runs=ids,
        reasons={run: reasons[run] for run in ids if run in reasons},
        steps=recipe.schedule.steps,
        global_batch=recipe.schedule.global_batch,
        measured=_measured(done) if done else None,
    )


def _measured(done: Sequence[RunResult]) -> MeasuredCell:
    seeds = over_seeds(done)
    means, deviations = seeds.mean.students, seeds.sd.students
    empty = Figures()
    spreads = {name: _spread(means.get(name, empty), deviations.get(name, empty)) for name in SELECTIONS}
    assert done[0].selected is not None, "a table's runs train students"
    return MeasuredCell(
        seeds=[result.seed for result in done],
        selected=done[0].selected,
        **spreads,
        teacher=None if seeds.mean.teacher is None else seeds.mean.teacher.top1,
        images=done[0].images,
        seconds=seeds.mean.seconds or 0.0,
        gpu_hours=seeds.mean.gpu_hours or 0.0,
        teacher_forwards=seeds.mean.teacher_forwards,
        data_opened=done[0].data_opened,
        warnings=list(dict.fromkeys(text for result in done for text in _warnings(result))) or None,
    )


def _warnings(result: RunResult) -> list[str]:
    return [*([f"blind selection: {result.not_judged}"] if result.not_judged else []), *(result.warnings or ())]


def _spread(mean: Figures, sd: Figures) -> dict[str, Spread]:
    deviations = sd.to_dict()
    return {name: Spread(value, deviations[name]) for name, value in mean.to_dict().items() if name != "step"}


def format_accuracy(cell: TableCell, selection: str) -> str:
    """Write a cell's accuracy as mean and deviation; the deviation of one seed alone is left out."""
    measured = cell.measured
    spread = None if measured is None else getattr(measured, selection).get(METRIC)
    if measured is None or spread is None:
        return ""
    return f"{spread.mean:.2f} ± {spread.sd:.2f}" if len(measured.seeds) > 1 else f"{spread.mean:.2f}"


def format_measured(cell: TableCell) -> str:
    """Write the figure that counts: of the selected student, or why there is none."""
    if cell.runs is None:
        return "not run"
    if cell.measured is None:
        return "failed" if cell.reasons else "not run yet"
    missing = len(cell.runs) - len(cell.measured.seeds)
    figure = format_accuracy(cell, cell.measured.selected)
    return figure + (f" ({missing} of {len(cell.runs)} seeds missing)" if missing else "")


def _budget(entries: Sequence[Entry]) -> str:
    """Say what the whole budget is: a table without a published figure has none that was published."""
    has_published = any(entry.cell.published is not None for entry in entries)
    return "as published" if has_published else "that of its recipes"


def format_published(cell: TableCell) -> str:
    """Write the paper's figure."""
    if cell.published is None:
        return ""
    return f"{cell.published:.2f}" + (f" ± {cell.published_sd:.2f}" if cell.published_sd else "")


HEADER = (
    "",
    "published",
    "measured",
    "last",
    "blind",
    "best (oracle)",
    "teacher",
    "seeds",
    "budget",
    "s a seed",
    "compute",
)


def table_lines(report: TableResult, column: str) -> list[list[str]]:
    """Return the rows of one column as texts in the order of ``HEADER``; a control is marked."""
    lines = []
    for row in report.rows:
        cell = row.cells.get(column)
        if cell is None:
            continue
        measured = cell.measured
        lines.append(
            [
                row.name + (" (control)" if row.control else ""),
                format_published(cell),
                format_measured(cell) + (f", {measured.selected}" if measured else ""),
                *(format_accuracy(cell, selection) for selection in SELECTIONS),
                "" if measured is None or measured.teacher is None else f"{measured.teacher:.2f}",
                str(len(measured.seeds)) if measured else "",
                f"{cell.steps:,} x {cell.global_batch:,}" if cell.steps is not None else "",
                f"{measured.seconds:.0f}" if measured else "",
                f"{measured.teacher_forwards / 1e6:.2f} M" if measured and measured.teacher_forwards else "",
            ]
        )
    return lines


def list_notes(report: TableResult) -> list[str]:
    """Return what a reader must know of rows, and why runs failed."""
    notes = [f"{row.name}: {row.note}" for row in report.rows if row.note]
    measured = [(row, cell.measured) for row in report.rows for cell in row.cells.values() if cell.measured]
    notes += [f"{row.name}: {text}" for row, cell in measured for text in cell.warnings or ()]
    failed: dict[str, str] = {}
    for row in report.rows:
        for cell in row.cells.values():
            failed |= cell.reasons or {}
    return notes + [f"{run} failed: {reason}" for run, reason in failed.items()]


def summarize_costs(report: TableResult) -> dict[str, str]:
    """Return budget, hardware and cost by name."""
    runs = report.runs
    pairs = {
        "source": report.source,
        "budget": report.budget,
        "hardware": "; ".join(report.hardware) or "none yet",
        "runs": f"{runs.finished} finished" + (f", {runs.failed} failed" if runs.failed else ""),
        "training": f"{report.seconds / 60:.1f} minutes over all runs",
    }
    if report.gpu_hours:
        pairs["GPU hours"] = f"{report.gpu_hours:.2f}"
    if report.cost is not None:
        pairs["cost"] = f"{report.cost:.2f}"
    return pairs


def markdown(report: TableResult) -> str:
    """Return the report as a Markdown document: a table for each column, then notes and what it took."""
    parts = [f"# {_escaped(report.title)}"]
    for column, title in report.columns.items():
        lines = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)], *table_lines(report, column)]
        table = "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines)
        parts += [f"## {_escaped(title)}", table]
    parts.append(
        "Top-1 in per cent, mean ± sample standard deviation over seeds. *Measured* is the student that counts: the "
        "blind choice where no training data was seen, else the last; *best* peeks at the test split."
    )
    parts.append("\n".join(f"- {_escaped(note)}" for note in list_notes(report)))
    parts.append("\n".join(f"- {name}: {_escaped(text)}" for name, text in summarize_costs(report).items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _escaped(text: str) -> str:
    """Return a text from outside as Markdown that shows it: on one line, no HTML, no end of a cell."""
    line = " ".join(printable(text).split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
