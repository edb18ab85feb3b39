"""How a trial's end is recorded, and whose checkpoints go with it; without Ray."""

import math
from pathlib import Path

import pytest
from optuna.trial import TrialState

from raykd.artifacts.pool_files import open_pool
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.search.attributes import IMAGES_MADE, REASON, TEST_ACCURACY
from raykd.search.proposer import Sampling, make_proposer
from raykd.search.space import Values
from raykd.search.trials import Complete, Failed, Pruned, TrialOutcome, TrialReport
from raykd.store.run_directory import RunDirectory
from tests.search.made_study import space
from tests.search.test_proposer import proposed, trials_of


def complete(**values: float) -> Complete:
    return Complete(TrialReport(1, values), images_made=7, test_accuracy=50.0)


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        (complete(accuracy=90.0), TrialState.COMPLETE, None),
        (complete(accuracy=math.nan), TrialState.FAIL, "its objectives are {'accuracy': nan}"),
        (complete(), TrialState.FAIL, "its objectives are {'accuracy': nan}"),
        (Pruned(TrialReport(2, {"accuracy": 10.0})), TrialState.PRUNED, None),
        (Failed("loss is not finite"), TrialState.FAIL, "loss is not finite"),
    ],
)
def test_an_end_is_recorded(tmp_path: Path, outcome: TrialOutcome, state: TrialState, reason: str | None) -> None:
    trials = trials_of(tmp_path, space(tmp_path))
    proposer = Sampling(trials)
    proposal = proposed(proposer)
    proposer.ended(proposal.trial, outcome)
    (trial,) = trials.study.trials
    assert (trial.state, trial.user_attrs.get(REASON)) == (state, reason)
    if state == TrialState.COMPLETE:
        assert (trial.values, trial.user_attrs[IMAGES_MADE], trial.user_attrs[TEST_ACCURACY]) == ([90.0], 7, 50.0)
    if state == TrialState.PRUNED:
        assert trial.intermediate_values == {2: 10.0}, "the report that it was ended at"


def test_of_several_objectives_only_the_end_is_recorded(tmp_path: Path) -> None:
    trials = trials_of(tmp_path, space(tmp_path), "accuracy", "parameters")
    proposer = Sampling(trials)
    proposal = proposed(proposer)
    trials.record_report(proposal.trial, TrialReport(1, {"accuracy": 10.0}))
    proposer.ended(proposal.trial, complete(parameters=5.0, accuracy=90.0))
    (trial,) = trials.study.trials
    assert (trial.values, trial.intermediate_values) == ([90.0, 5.0], {})


def test_a_pruned_run_keeps_its_records_only(tmp_path: Path) -> None:
    proposer = Sampling(trials_of(tmp_path, space(tmp_path, seeds=2)))
    proposal = proposed(proposer)
    runs = [RunDirectory(tmp_path / proposal.experiment.with_seed(seed).run_id) for seed in range(2)]
    for run in runs:
        (run.path / "checkpoints").mkdir(parents=True)
        run.write_status(state="interrupted")
    proposer.ended(proposal.trial, Pruned(TrialReport(1, {"accuracy": 10.0})))
    assert [run.status()["state"] for run in runs] == ["pruned"] * 2
    assert not any((run.path / "checkpoints").exists() for run in runs)


def test_a_search_removes_checkpoints_that_it_made_and_no_others(tmp_path: Path) -> None:
    """A point may be a run that somebody trained before: its checkpoints are not the search's to remove."""
    points: list[Values] = [
        {"schedule.steps": steps, "student.model": "lenet5_half", "data.augment": []} for steps in (3, 4, 5)
    ]
    searched = space(tmp_path, points=points, keep=1, trials=3)
    proposer = make_proposer(trials_of(tmp_path, searched))
    runs = [resolve(searched.make_recipe(point)).run_id for point in points]
    for run in runs:
        (tmp_path / run / "checkpoints").mkdir(parents=True)
    RunDirectory(tmp_path / runs[0]).write_status(state="finished", result={})
    for number, run in enumerate(runs):
        proposal = proposed(proposer)
        assert proposal.experiment.run_id == run
        proposer.ended(proposal.trial, complete(accuracy=float(number)))
    assert [(tmp_path / run / "checkpoints").exists() for run in runs] == [True, False, True]


def test_checkpoints_of_fifty_trials_are_those_of_the_best(tmp_path: Path) -> None:
    """What a search keeps on disk is bounded by ``keep``, however many trials it has and in whatever order they end."""
    searched = space(tmp_path, points=[], keep=3, trials=50)
    proposer = Sampling(trials_of(tmp_path, searched))
    scores: dict[str, float] = {}
    most = 0
    for number in range(50):
        proposal = proposed(proposer)
        run = tmp_path / proposal.experiment.run_id
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / "state.pt").write_bytes(bytes(1000))
        scores[run.name] = max(scores.get(run.name, 0.0), float(number * 37 % 50))
        proposer.ended(proposal.trial, complete(accuracy=float(number * 37 % 50)))
        most = max(most, sum(file.stat().st_size for file in tmp_path.glob("*/checkpoints/*")))
    kept = {file.parent.parent.name for file in tmp_path.glob("*/checkpoints/*")}
    assert most <= 3 * 1000
    assert kept <= set(sorted(scores, key=scores.__getitem__, reverse=True)[:3])
    assert max(scores, key=scores.__getitem__) in kept


def test_images_of_trials_that_are_not_kept_are_removed_and_it_is_said(tmp_path: Path) -> None:
    """A pool is many times as large as a student, which stays."""
    fields = {"method.moment_weight": {"choice": [1.0, 2.0]}}
    points: list[Values] = [{"method.moment_weight": weight} for weight in (1.0, 2.0)]
    searched = space(tmp_path, recipe="fast_digits", space=fields, points=points, keep=1, trials=2)
    proposer = make_proposer(trials_of(tmp_path, searched))
    runs = []
    for number in range(2):
        proposal = proposed(proposer)
        run = RunDirectory(tmp_path / proposal.experiment.run_id)
        run.pool.mkdir(parents=True)
        (run.pool / "manifest.json").write_text("{}")
        run.write_status(state="finished", result={})
        proposer.ended(proposal.trial, complete(agreement=float(number), accuracy=float(number)))
        runs.append(run)
    assert [run.pool.exists() for run in runs] == [False, True]
    assert [run.status().get("images_removed") for run in runs] == ["by the search that it is a trial of", None]
    with pytest.raises(UsageError, match="removed by the search"):
        open_pool(runs[0])
