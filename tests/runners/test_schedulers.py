"""Which trials end early, and what a trial reports; without Ray's processes."""

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.recipe.recipe import load_recipe
from raykd.results import RunResult
from raykd.runners.ray.schedulers import make_scheduler
from raykd.runners.ray.trial import REPORT, ObjectiveReporter, TuneReporter, gpu_hours
from raykd.store.run_directory import RunDirectory
from tests.search.made_study import opened, space
from tests.store.test_checkpoint import made

BUDGET = {"schedule.steps": 40, "schedule.report_every": 10}
RATES = {"student_optim.lr": {"loguniform": [0.0001, 0.01]}}


def searched(folder: Path, **scheduler: Any) -> Any:
    return space(folder, overrides=BUDGET, space=RATES, scheduler=scheduler)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_search_that_goes_on_judges_by_all_trials_of_its_study(tmp_path: Path, name: str) -> None:
    made = searched(tmp_path, name=name, grace=1)
    study = opened(tmp_path, made)
    for value in (0.5, 0.6, 0.7, 0.8):
        curve = {report: value for report in range(1, 5)}
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, intermediate_values=curve))
    decisions = {}
    for value in (0.1, 0.9):
        scheduler, trial = make_scheduler(made, "accuracy", study), Trial("run", stub=True)
        scheduler.on_trial_add(None, trial)
        decisions[value] = scheduler.on_trial_result(None, trial, {REPORT: 2, "accuracy": value})
    assert decisions == {0.1: TrialScheduler.STOP, 0.9: TrialScheduler.CONTINUE}
    alone, trial = make_scheduler(made, "accuracy", opened(tmp_path / "new", made)), Trial("run", stub=True)
    alone.on_trial_add(None, trial)
    assert alone.on_trial_result(None, trial, {REPORT: 2, "accuracy": 0.1}) == TrialScheduler.CONTINUE


def test_no_trial_is_ended_at_its_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr("raykd.runners.ray.trial.tune.report", reports.append)
    recipe = load_recipe("kd_digits", [f"{key}={value}" for key, value in BUDGET.items()] + ["data.holdout=0.1"])
    for last in (40, math.inf):
        for step in range(10, 41, 10):
            ObjectiveReporter(recipe, ["accuracy"], last).report({"step": step, "holdout/accuracy/top1": 1.0})
    assert [row[REPORT] for row in reports] == [1, 2, 3, 1, 2, 3, 4], (
        "of several seeds the first one has others after it"
    )


def test_a_trial_that_goes_on_reports_again_what_led_to_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver may have died before it noted the last row; a row without its checkpoint is made anew."""
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr("raykd.runners.ray.trial.tune.report", reports.append)
    recipe = load_recipe("kd_digits", [f"{key}={value}" for key, value in BUDGET.items()] + ["data.holdout=0.1"])
    run = RunDirectory(tmp_path / "run-s0")

    def process(begin: int = 0) -> TuneReporter:
        objectives = ObjectiveReporter(recipe, ["accuracy"], 40, begin=begin)
        return TuneReporter(run, bool, World.alone(), None, objectives)

    run.path.mkdir()
    first = process()
    for step in (10, 20):
        first.report({"step": step, "holdout/accuracy/top1": float(step)}, made(step))
    run.append_row({"step": 30, "holdout/accuracy/top1": 30.0})
    reports.clear()
    again = process()
    assert [again.resume_from() for _ in range(2)] == [run.checkpoints / "step_0000020"] * 2
    assert reports == [{REPORT: 1, "accuracy": 10.0}, {REPORT: 2, "accuracy": 20.0}]
    reports.clear()
    process(begin=10).resume_from()
    assert reports == [{REPORT: 2, "accuracy": 20.0}], "the first is the report of the trial before it"


def test_a_report_that_is_made_again_is_noted_once(tmp_path: Path) -> None:
    made_up = searched(tmp_path, name="median", grace=1)
    median, trial = make_scheduler(made_up, "accuracy", opened(tmp_path, made_up)), Trial("run", stub=True)
    for report in (1, 2, 1, 2, 3):
        assert median.on_trial_result(None, trial, {REPORT: report, "accuracy": 0.5}) == TrialScheduler.CONTINUE
    assert [result[REPORT] for result in median._results[trial]] == [1, 2, 3]


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_scheduler_that_ends_no_trial_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="each is given 4 reports and makes 4: lower scheduler.grace"):
        searched(tmp_path, name=name, grace=4)


@pytest.mark.parametrize(
    ("measured", "workers", "share", "hours"), [(0.0, 3, 0.0, 6.0), (4.0, 2, 1.0, 4.0), (2.0, 1, 0.25, 0.5)]
)
def test_hours_are_those_of_gpus_or_their_parts_else_of_workers(
    measured: float, workers: int, share: float, hours: float
) -> None:
    result = RunResult(run="made", seed=0, gpu_hours=measured, seconds=7200.0)
    assert gpu_hours(result, workers, Cluster(name="made", gpus_per_worker=share)) == hours
