"""The table that people read: published beside measured, over seeds, with what is missing and what it took."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raykd.recipe.table import Entry, Table, table_entries
from raykd.reporting.tables import markdown, table_report
from raykd.results import Figures, RunResult, TableResult
from tests.recipe.test_table import saved


def result(seed: int, top1: float, selected: str = "last", **more: Any) -> RunResult:
    figures = Figures(step=3, top1=top1, agreement=top1 - 1)
    return RunResult(
        run=f"made-s{seed}",
        seed=seed,
        selected=selected,
        last=figures,
        blind=replace(figures, top1=top1 - 2),
        best=replace(figures, top1=top1 + 1),
        teacher=Figures(top1=99.5),
        images=1000,
        seconds=1800.0,
        gpu_hours=0.0,
        data_opened={"train": ["digits/train"], "test": ["digits/test"]},
        **more,
    )


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Table, list[Entry]]:
    table = saved(tmp_path)
    return table, table_entries(table, quick=False)


def report_of(parts: tuple[Table, list[Entry]], results: dict[str, RunResult], **more: Any) -> TableResult:
    table, entries = parts
    settings: dict[str, Any] = {"quick": False, "reasons": {}, "hardware": {}, "price_per_hour": None}
    return table_report(table, entries, results=results, **{**settings, **more})


def test_mean_and_sample_deviation_over_seeds(parts: tuple[Table, list[Entry]]) -> None:
    ids = [recipe.run_id for recipe in parts[1][0].runs]
    results = {ids[0]: result(0, 90.0), ids[1]: result(1, 94.0)}
    report = report_of(parts, results, hardware={run: "a box" for run in ids}, price_per_hour=2.0)
    cell = report.to_dict()["rows"][0]["cells"]["a"]
    assert cell["last"]["accuracy/top1"] == {"mean": 92.0, "sd": pytest.approx(8**0.5)}
    assert cell["best"]["accuracy/top1"]["mean"] == 93.0
    assert (cell["state"], cell["seeds"], cell["runs"], cell["published"]) == ("finished", [0, 1], ids, 99.0)
    assert (cell["steps"], cell["global_batch"], cell["teacher"]) == (600, 128, 99.5)
    assert (report.seconds, report.cost, report.hardware) == (3600.0, 2.0, ["a box"])
    text = markdown(report)
    assert "| plain | 99.00 | 92.00 ± 2.83, last | 92.00 ± 2.83 | 90.00 ± 2.83 | 93.00 ± 2.83 | 99.50 | 2 |" in text
    assert "## first" in text
    assert "- cost: 2.00" in text


def test_what_counts_is_the_selected_student(parts: tuple[Table, list[Entry]]) -> None:
    run = parts[1][0].runs[0].run_id
    text = markdown(report_of(parts, {run: result(0, 90.0, "blind")}))
    assert "| plain | 99.00 | 88.00 (1 of 2 seeds missing), blind | 90.00 |" in text


def test_failed_missing_and_published_only_are_told_apart(parts: tuple[Table, list[Entry]]) -> None:
    a, b = (entry.runs for entry in parts[1][:2])
    report = report_of(parts, {}, reasons={recipe.run_id: "not finite" for recipe in a})
    states = {(row.name, c): cell.state for row in report.rows for c, cell in row.cells.items()}
    assert states["theirs", "a"] == "published only"
    assert states["plain", "a"] == states["plain", "b"] == "missing"
    text = markdown(report)
    assert "| plain | 99.00 | failed |" in text
    assert "| plain |  | not run yet |" in text
    assert "| theirs | 50.00 ± 1.50 | not run |" in text
    assert f"- {a[0].run_id} failed: not finite" in text
    assert "cost" not in text
    assert b[0].run_id not in (report.rows[0].cells["b"].reasons or {})


def test_a_control_is_marked_and_the_reduced_budget_stated(tmp_path: Path) -> None:
    table = saved(tmp_path)
    report = report_of((table, table_entries(table, quick=True)), {}, quick=True)
    text = markdown(report)
    assert "other (control)" in text
    assert "- budget: nearly nothing" in text
    assert "7 x 128" in text
