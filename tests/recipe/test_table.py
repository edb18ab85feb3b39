"""Tables are data: every cell is a run that `raykd train` would make, and a slip is named with its place."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.cli.names import packaged_recipes, packaged_tables
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.recipe.table import Table, load_table, table_entries


def made(**changes: Any) -> dict[str, Any]:
    return {
        "title": "Made up",
        "source": "nowhere",
        "seeds": 2,
        "columns": {"a": "first", "b": "second"},
        "rows": [
            {
                "name": "plain",
                "cells": {
                    "a": {"recipe": "supervised_digits_lenet5", "published": 99.0},
                    "b": {
                        "recipe": "supervised_digits_lenet5",
                        "overrides": {"student.model": "lenet5_half"},
                        "quick": {"overrides": {"schedule.steps": 7}},
                    },
                },
            },
            {"name": "theirs", "cells": {"a": {"published": 50.0, "published_sd": 1.5}}},
            {
                "name": "other",
                "control": True,
                "cells": {
                    "b": {
                        "recipe": "dafl_digits",
                        "overrides": {"method.latent_dim": 5},
                        "quick": {"recipe": "noise_digits", "overrides": {"schedule.global_batch": 32}},
                    }
                },
            },
        ],
        "quick": {"budget": "nearly nothing", "overrides": {"schedule.steps": 3, "schedule.report_every": 3}},
        **changes,
    }


def saved(folder: Path, **changes: Any) -> Table:
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump(made(**changes)))
    return load_table(str(path))


@pytest.mark.parametrize("name", packaged_tables())
def test_every_packaged_table_resolves(name: str) -> None:
    table = load_table(name)
    for quick in (False, True) if table.quick else (False,):
        entries = table_entries(table, quick=quick)
        runs = [(entry.column, run) for entry in entries for run in entry.run_ids]
        assert runs, "a table measures something"
        # Pairs of networks may share a teacher, so one run may fill a row.
        assert len(set(runs)) == len(runs), "no run fills two cells of a column"
        assert all(not recipe.controls for entry in entries for recipe in entry.runs)


def test_the_tables_of_the_papers_are_there() -> None:
    of_papers = {"dafl_mnist", "dafl_mnist_ablation", "dafl_mnist_variants", "dafl_cifar", "tfkd_cifar100"}
    assert of_papers | {"mosaickd_cifar100", "mosaickd_ablation", "mosaickd_small", "dfkd_small"} == set(
        packaged_tables()
    ) - {"digits"}
    assert all(packaged_tables().values()), "a table's first line is a comment on it"


def test_published_figures_of_table_1() -> None:
    entries = table_entries(load_table("dafl_mnist"), quick=False)
    published = {(entry.row.name, entry.column): entry.cell.published for entry in entries if entry.cell.published}
    assert published == {
        ("teacher", "lenet5"): 98.91,
        ("teacher", "hinton"): 98.39,
        ("student, plain training", "lenet5"): 98.65,
        ("student, plain training", "hinton"): 98.11,
        ("KD with the data", "lenet5"): 98.91,
        ("KD with the data", "hinton"): 98.39,
        ("Gaussian noise", "lenet5"): 88.01,
        ("Gaussian noise", "hinton"): 87.58,
        ("alternative data, USPS", "lenet5"): 94.56,
        ("alternative data, USPS", "hinton"): 93.99,
        ("meta-data", "lenet5"): 92.47,
        ("meta-data", "hinton"): 91.24,
        ("DAFL", "lenet5"): 98.20,
        ("DAFL", "hinton"): 97.91,
    }


def test_a_cell_is_the_run_that_train_would_make(tmp_path: Path) -> None:
    entries = table_entries(saved(tmp_path), quick=False)
    plain = next(entry for entry in entries if entry.column == "b" and entry.row.name == "plain")
    trained = load_recipe("supervised_digits_lenet5", ["student.model=lenet5_half", "seed=1"])
    assert [run.recipe.seed for run in plain.runs] == [0, 1]
    assert plain.runs[1].recipe == trained


def test_the_reduced_budget_is_laid_over_the_cells(tmp_path: Path) -> None:
    runs = {(e.row.name, e.column): e.runs for e in table_entries(saved(tmp_path), quick=True)}
    cells = (runs["plain", "a"], runs["plain", "b"], runs["other", "b"])
    a, b, other = (run.recipe for (run,) in cells)
    assert (a.schedule.steps, a.student.model if a.student else "") == (3, "lenet5")
    assert (b.schedule.steps, b.student.model if b.student else "") == (7, "lenet5_half")
    assert (other.name, other.schedule.steps, other.schedule.global_batch) == ("noise_digits", 3, 32)
    assert runs["theirs", "a"] == ()


def test_seeds_columns_and_skipped_cells(tmp_path: Path) -> None:
    assert [len(e.runs) for e in table_entries(saved(tmp_path), quick=False, seeds=4)] == [4, 4, 0, 4]
    raw = made()
    raw["rows"][0]["cells"]["a"]["quick"] = {"skip": True}
    raw["quick"]["columns"] = ["a"]
    entries = table_entries(saved(tmp_path, **raw), quick=True)
    assert [(e.row.name, e.column, len(e.runs)) for e in entries] == [("plain", "a", 0), ("theirs", "a", 0)]


def test_a_slip_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'dafl_mnist'"):
        load_table("dafl_mnst")
    with pytest.raises(UsageError, match="no table file"):
        load_table(str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="'colums' is not a field"):
        saved(tmp_path, colums={})
    with pytest.raises(UsageError, match="did you mean 'rows.0.cells.a.quick.skip'"):
        saved(tmp_path, rows=[{"name": "x", "cells": {"a": {"quick": {"skipp": True}}}}])
    with pytest.raises(UsageError, match="called like its file"):
        saved(tmp_path, name="other")
    with pytest.raises(UsageError, match="column 'c' is not one of 'columns' \\(a, b\\)"):
        saved(tmp_path, rows=[{"name": "x", "cells": {"c": {"published": 1.0}}}])
    with pytest.raises(UsageError, match="two rows are called 'x'"):
        saved(tmp_path, rows=[{"name": "x", "cells": {"a": {"published": figure}}} for figure in (1.0, 2.0)])
    with pytest.raises(UsageError, match="no reduced budget"):
        table_entries(saved(tmp_path, quick=None), quick=True)
    rows = [{"name": "x", "cells": {"b": {"recipe": "kd_digts"}}}]
    with pytest.raises(UsageError, match="table 'made', row 'x', column 'b': unknown recipe 'kd_digts'.*'kd_digits'"):
        table_entries(saved(tmp_path, rows=rows), quick=False)
    rows = [{"name": "x", "cells": {"b": {"recipe": "kd_digits", "overrides": {"method.alpa": 0.5}}}}]
    with pytest.raises(UsageError, match="row 'x', column 'b': 'method.alpa'.*did you mean 'method.alpha'"):
        table_entries(saved(tmp_path, rows=rows), quick=False)


def test_a_teachers_overrides_make_it_another_teacher() -> None:
    usual = load_recipe("kd_digits")
    stopped = load_recipe("kd_digits", ["teacher.overrides={schedule.steps: 5}"])
    assert resolve(stopped).run_id != resolve(usual).run_id
    assert resolve(load_recipe("kd_digits", ["teacher.overrides={}"])).run_id == resolve(usual).run_id
    with pytest.raises(UsageError, match="did you mean 'schedule.steps'"):
        _ = resolve(load_recipe("kd_digits", ["teacher.overrides={schedule.stps: 5}"])).run_id
    with pytest.raises(UsageError, match="there is none here"):
        load_recipe("kd_digits", ["teacher={model: lenet5, weights: x, overrides: {seed: 1}}"])


def test_tables_and_recipes_have_names_of_their_own() -> None:
    assert "digits" not in packaged_recipes()
