"""A published table beside what was measured: as plain data for a file, and as Markdown for a reader."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from raykd.recipe.table import Entry, Table
from raykd.reporting.seeds import over_seeds

SELECTIONS = ("last", "blind", "best")
METRIC = "accuracy/top1"


def table_report(
    table: Table,
    entries: Sequence[Entry],
    *,
    quick: bool,
    results: Mapping[str, Mapping[str, Any]],
    reasons: Mapping[str, str],
    hardware: Mapping[str, str],
    price_per_hour: float | None,
) -> dict[str, Any]:
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
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        cells = {entry.column: _cell(entry, results, reasons) for entry in entries if entry.row is row}
        if cells:
            rows.append({"name": row.name, "control": row.control, "note": row.note, "cells": cells})
    shown = [column for column in table.columns if any(column in row["cells"] for row in rows)]
    seconds = sum(result["seconds"] for result in results.values())
    gpu_hours = sum(result["gpu_hours"] for result in results.values())
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "quick": quick,
        "budget": table.quick.budget if quick and table.quick else "as published",
        "columns": {column: table.columns[column] for column in shown},
        "rows": rows,
        "runs": {"finished": len(results), "failed": len(reasons), "wanted": _wanted(entries)},
        "hardware": sorted(set(hardware.values())),
        "seconds": round(seconds, 1),
        "gpu_hours": round(gpu_hours, 3),
        "cost": None if price_per_hour is None else round(seconds / 3600 * price_per_hour, 2),
    }


def _wanted(entries: Sequence[Entry]) -> int:
    return len({run for entry in entries for run in entry.run_ids})


def _cell(entry: Entry, results: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    cell: dict[str, Any] = {"published": entry.cell.published, "published_sd": entry.cell.published_sd}
    if not entry.runs:
        return {**cell, "state": "published only"}
    ids = list(entry.run_ids)
    done = [results[run] for run in ids if run in results]
    recipe = entry.runs[0].recipe
    schedule = recipe.schedule
    cell |= {
        "state": "finished" if len(done) == len(ids) else "partial" if done else "missing",
        "recipe": recipe.name,
        "runs": ids,
        "reasons": {run: reasons[run] for run in ids if run in reasons},
        "steps": schedule.steps,
        "global_batch": schedule.global_batch,
    }
    if not done:
        return cell
    figures = over_seeds(done)
    return cell | {
        "seeds": [result["seed"] for result in done],
        "selected": done[0]["selected"],
        **{
            selection: {
                name: {"mean": mean, "sd": figures["sd"][selection][name]}
                for name, mean in figures["mean"][selection].items()
                if name != "step"
            }
            for selection in SELECTIONS
        },
        "teacher": figures["mean"].get(f"teacher/{METRIC}"),
        "images": done[0]["images"],
        "seconds": fmean(result["seconds"] for result in done),
        "gpu_hours": fmean(result["gpu_hours"] for result in done),
        "data_opened": done[0]["data_opened"],
    }


def figure_of(cell: Mapping[str, Any], selection: str) -> str:
    """Write a cell's accuracy as mean and deviation; the deviation of one seed alone is left out."""
    if selection not in cell or METRIC not in cell[selection]:
        return ""
    value = cell[selection][METRIC]
    return f"{value['mean']:.2f} ± {value['sd']:.2f}" if len(cell["seeds"]) > 1 else f"{value['mean']:.2f}"


def measured_of(cell: Mapping[str, Any]) -> str:
    """Write the figure that counts: of the selected student, or why there is none."""
    if cell["state"] == "published only":
        return "not run"
    if "selected" not in cell:
        return "failed" if cell["reasons"] else "not run yet"
    missing = len(cell["runs"]) - len(cell["seeds"])
    return figure_of(cell, cell["selected"]) + (f" ({missing} of {len(cell['runs'])} seeds missing)" if missing else "")


def published_of(cell: Mapping[str, Any]) -> str:
    """Write the paper's figure."""
    if cell["published"] is None:
        return ""
    return f"{cell['published']:.2f}" + (f" ± {cell['published_sd']:.2f}" if cell["published_sd"] else "")


HEADER = ("", "published", "measured", "last", "blind", "best (oracle)", "teacher", "seeds", "budget", "s a seed")


def table_lines(report: Mapping[str, Any], column: str) -> list[list[str]]:
    """Return the rows of one column as texts in the order of ``HEADER``; a control is marked."""
    lines = []
    for row in report["rows"]:
        cell = row["cells"].get(column)
        if cell is None:
            continue
        selected, teacher = cell.get("selected"), cell.get("teacher")
        lines.append(
            [
                row["name"] + (" (control)" if row["control"] else ""),
                published_of(cell),
                measured_of(cell) + (f", {selected}" if selected else ""),
                *(figure_of(cell, selection) for selection in SELECTIONS),
                "" if teacher is None else f"{teacher:.2f}",
                str(len(cell["seeds"])) if "seeds" in cell else "",
                f"{cell['steps']:,} x {cell['global_batch']:,}" if "steps" in cell else "",
                f"{cell['seconds']:.0f}" if "seconds" in cell else "",
            ]
        )
    return lines


def notes_of(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of rows, and why runs failed."""
    notes = [f"{row['name']}: {row['note']}" for row in report["rows"] if row["note"]]
    failed: dict[str, str] = {}
    for row in report["rows"]:
        for cell in row["cells"].values():
            failed |= cell.get("reasons", {})
    return notes + [f"{run} failed: {reason}" for run, reason in failed.items()]


def account_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Return budget, hardware and cost by name."""
    runs = report["runs"]
    pairs = {
        "source": report["source"],
        "budget": report["budget"],
        "hardware": "; ".join(report["hardware"]) or "none yet",
        "runs": f"{runs['finished']} finished" + (f", {runs['failed']} failed" if runs["failed"] else ""),
        "training": f"{report['seconds'] / 60:.1f} minutes over all runs",
    }
    if report["gpu_hours"]:
        pairs["GPU hours"] = f"{report['gpu_hours']:.2f}"
    if report["cost"] is not None:
        pairs["cost"] = f"{report['cost']:.2f}"
    return pairs


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a Markdown document: a table for each column, then notes and what it took."""
    parts = [f"# {report['title']}"]
    for column, title in report["columns"].items():
        lines = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)], *table_lines(report, column)]
        table = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
        parts += [f"## {title}", table]
    parts.append(
        "Top-1 in per cent, mean ± sample standard deviation over seeds. *Measured* is the student that counts: the "
        "blind choice where no training data was seen, else the last; *best* peeks at the test split."
    )
    parts.append("\n".join(f"- {note}" for note in notes_of(report)))
    parts.append("\n".join(f"- {name}: {text}" for name, text in account_of(report).items()))
    return "\n\n".join(part for part in parts if part) + "\n"
