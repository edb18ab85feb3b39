"""``raykd table`` on a real Ray: parallel trials, a table in the store, and what a failing row leaves."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Raykd, WriteRecipe
from tests.reporting.pages.made import parsed

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def write_table(recipe: str, **rows: dict[str, Any]) -> str:
    """Write a table of one column; each row is the recipe with its overrides."""
    table = {
        "title": "Made up",
        "source": "nowhere",
        "seeds": 2,
        "columns": {"a": "first"},
        "rows": [
            {"name": name, "cells": {"a": {"recipe": recipe, "overrides": overrides, "published": 12.5}}}
            for name, overrides in rows.items()
        ],
        "quick": {"budget": "one seed", "seeds": 1},
    }
    Path("made.yaml").write_text(yaml.safe_dump(table))
    return "made.yaml"


def test_rows_and_seeds_are_run_once_and_read_again(
    ray_session: ModuleType, raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYKD_REPORT")
    table = write_table(tiny(), plain={}, wide={"student.model": "lenet5"})
    done = raykd("table", table, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    folder = Path(report["directory"])
    assert folder == Path("runs/tables/made")
    assert json.loads((folder / "table.json").read_text()) == {k: v for k, v in report.items() if k != "directory"}
    assert "| plain | 12.50 |" in (folder / "table.md").read_text()
    assert report["runs"] == {"finished": 4, "failed": 0, "wanted": 4}
    links = [one.attributes["href"] for one in parsed((folder / "report.html").read_text()).all("a")]
    assert len(links) == 4, "each run has its page"
    assert all((folder / link).is_file() for link in links)
    cells = [row["cells"]["a"] for row in report["rows"]]
    assert [cell["seeds"] for cell in cells] == [[0, 1], [0, 1]]
    for cell in cells:
        results = [json.loads((Path("runs") / run / "status.json").read_text())["result"] for run in cell["runs"]]
        assert cell["blind"]["accuracy/top1"]["mean"] == pytest.approx(
            sum(result["blind"]["accuracy/top1"] for result in results) / 2
        )
    times = {path: path.stat().st_mtime_ns for path in Path("runs").glob("*/student.safetensors")}
    again = raykd("table", table)
    assert again.exit_code == 0
    assert "plain" in again.stdout
    assert "published" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in Path("runs").glob("*/student.safetensors")} == times
    quick = json.loads(raykd("table", table, "--quick", "--json").stdout.splitlines()[-1])
    assert (quick["budget"], quick["runs"]["finished"]) == ("one seed", 2)


def test_a_failing_row_is_told_and_the_others_stand(ray_session: ModuleType, raykd: Raykd, tiny: WriteRecipe) -> None:
    table = write_table(tiny(), plain={}, broken={"student_optim.lr": 1e30})
    done = raykd("table", table, "--quick", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout.splitlines()[-1])
    plain, broken = (row["cells"]["a"] for row in report["rows"])
    assert plain["state"] == "finished"
    assert broken["state"] == "missing"
    assert "finite" in broken["reasons"][broken["runs"][0]]
    assert "failed" in done.stderr
    assert "| broken | 12.50 | failed |" in Path("runs/tables/made-quick/table.md").read_text()


def test_a_slip_shows_before_anything_starts(raykd: Raykd, tiny: WriteRecipe) -> None:
    done = raykd("table", write_table(tiny(), plain={}, wrong={"student_optim.rl": 1}))
    assert done.exit_code == 2
    assert "row 'wrong', column 'a'" in done.stderr
    assert "did you mean 'student_optim.lr'" in done.stderr
    assert not Path("runs").exists()
    assert raykd("table", "dafl_mnst").exit_code == 2
