"""What a search leaves: recipes that train unchanged, and figures."""

import json
from pathlib import Path

import pytest

from raykd.recipe.recipe import load_recipe
from raykd.results import SearchRecord, TrialCounts, TrialFailure
from raykd.search.report import build_record, build_report, write_figures, write_search
from raykd.search.study import (
    best_trials,
    started_trials,
)
from tests.search.made_study import filled_study


def test_the_best_recipe_is_one_that_trains_unchanged(tmp_path: Path) -> None:
    study, searched = filled_study(tmp_path, "accuracy")
    report = build_report("made-0", started_trials(study), best_trials(study), searched, ["accuracy"], 6)
    assert report.trials == TrialCounts(target=6, complete=6, pruned=0, failed=1, running=0)
    assert [one.trial for one in report.best] == [5, 4, 3, 2, 1]
    assert report.reasons == [TrialFailure(6, "loss is not finite")]
    write_search(report, searched, tmp_path / "made-0")
    recipe = load_recipe(str(tmp_path / "made-0" / "best.yaml"))
    values = report.best[0].parameters
    assert (recipe.schedule.steps, recipe.data.augment) == (values["schedule.steps"], tuple(values["data.augment"]))
    assert recipe.data.holdout == 0, "it learns from all images"


def test_a_front_has_a_recipe_for_each(tmp_path: Path) -> None:
    study, searched = filled_study(tmp_path, "accuracy", "parameters")
    report = build_report("made-0", started_trials(study), best_trials(study), searched, ["accuracy", "parameters"], 6)
    write_search(report, searched, tmp_path / "made-0")
    assert [path.name for path in (tmp_path / "made-0").glob("best*.yaml")] == ["best-5.yaml"]


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "parameters")])
def test_the_record_has_every_trial_with_what_it_was_given(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    study, searched = filled_study(tmp_path, *objectives)
    record = build_record(study, started_trials(study), searched)
    assert [(one.trial, one.state) for one in record.trials] == [*((i, "complete") for i in range(6)), (6, "failed")]
    assert [one.values for one in record.trials][5:] == [dict(zip(objectives, (5.0, -5.0), strict=False)), None]
    assert record.trials[3].run == "run-3"
    assert isinstance(record.trials[0].parameters["data.augment"], list), "as the recipe takes it"
    assert record.logarithmic == ["method.temperature"]
    assert set(record.importances) == set(objectives)
    for shares in record.importances.values():
        assert sum(shares.values()) == pytest.approx(1)
    assert SearchRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "parameters")])
def test_the_figures_are_there(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    study, _ = filled_study(tmp_path, *objectives)
    written = write_figures(study, tmp_path / "figures")
    kinds = ("history", "importances", "parallel", "slice")
    ends = ("",) if len(objectives) == 1 else ("_accuracy", "_parameters")
    assert set(written) == {kind + end for kind in kinds for end in ends} | ({"pareto"} if len(ends) > 1 else set())
    for name in written:
        assert "Plotly.newPlot" in (tmp_path / "figures" / f"{name}.html").read_text()
