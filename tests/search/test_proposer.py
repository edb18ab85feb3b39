"""A sampler's trials: which are proposed, how their ends are recorded, and whose checkpoints go; without Ray."""

import math
from pathlib import Path

import pytest
from optuna.trial import Trial, TrialState

from raykd.recipe.experiment import resolve
from raykd.search.attributes import IMAGES_MADE, REASON, RUN, TEST_ACCURACY, TOO_MANY, TUNER
from raykd.search.dimension import Dimension
from raykd.search.population import Population
from raykd.search.proposer import Proposer, Sampling, make_proposer
from raykd.search.space import SearchSpace, Values
from raykd.search.study import started_trials
from raykd.search.trials import DONE, Complete, Failed, Proposal, Pruned, StudyTrials, TrialOutcome, TrialReport
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.search.test_study import opened, space


def trials_of(folder: Path, searched: SearchSpace, *objectives: str, tuner: str = "one") -> StudyTrials:
    study = opened(folder, searched, *objectives)
    return StudyTrials(study, searched, objectives or ("accuracy",), Workspace(None, folder), tuner)


def proposed(proposer: Proposer) -> Proposal:
    proposal = proposer.next()
    assert isinstance(proposal, Proposal)
    return proposal


def complete(**values: float) -> Complete:
    return Complete(TrialReport(1, values), images_made=7, test_accuracy=50.0)


def test_a_space_chooses_its_proposer(tmp_path: Path) -> None:
    numbers = {"method.temperature": {"uniform": [1, 9]}}
    scheduler = {"name": "pbt"}
    budget = {"schedule.steps": 40, "schedule.report_every": 10}
    population = space(tmp_path, space=numbers, scheduler=scheduler, trials=3, overrides=budget)
    proposer = make_proposer(trials_of(tmp_path / "population", population))
    assert isinstance(proposer, Population)
    assert proposer.target == 12
    points = [{"schedule.steps": 5}]
    trials = trials_of(tmp_path, space(tmp_path, points=points, trials=3))
    proposer = make_proposer(trials)
    assert isinstance(proposer, Sampling)
    assert proposer.target == 3
    assert [trial.state for trial in trials.study.trials] == [TrialState.WAITING], "points come first"


def test_the_run_of_a_trial_whose_process_died_says_so(tmp_path: Path) -> None:
    """It would say for ever that it goes on; a run of an equal trial, which does go on, keeps saying so."""
    trials = trials_of(tmp_path, space(tmp_path, trials=4))
    proposals = [proposed(Sampling(trials)) for _ in range(2)]
    runs = [trials.workspace.run(proposal.experiment.run_id) for proposal in proposals]
    trials.ask().set_user_attr(RUN, runs[1].name)
    for run, proposal in zip(runs, proposals, strict=True):
        run.path.mkdir()
        run.write_status(state="running", step=3)
        trials.record_end(proposal.trial, Failed("its process died"))
    assert [runs[0].status()[key] for key in ("state", "reason", "step")] == ["failed", "its process died", 3]
    assert runs[1].status()["state"] == "running"


def test_trials_are_proposed_until_the_target_is_at_work(tmp_path: Path) -> None:
    trials = trials_of(tmp_path, space(tmp_path, trials=2), tuner="this one")
    proposer = Sampling(trials)
    proposals = [proposed(proposer), proposed(proposer)]
    assert proposer.next() is DONE
    assert [proposal.segment for proposal in proposals] == [(0, None)] * 2
    assert {trial.user_attrs[TUNER] for trial in trials.study.trials} == {"this one"}
    assert [trial.user_attrs["run"] for trial in trials.study.trials] == [one.experiment.run_id for one in proposals]


def test_the_last_trial_that_two_tuners_take_at_once_is_one(tmp_path: Path) -> None:
    searched = space(tmp_path, trials=1)
    one, two = (Sampling(trials_of(tmp_path, searched, tuner=name)) for name in ("one", "two"))
    trials = trials_of(tmp_path, searched)
    late = Sampling(trials)
    ask = trials.study.ask

    def ask_late() -> Trial:
        proposed(one)
        return ask()

    trials.study.ask = ask_late  # type: ignore[method-assign, assignment]
    assert late.next() is DONE
    assert two.next() is DONE
    assert [TOO_MANY in trial.user_attrs for trial in trials.study.trials] == [False, True]
    assert len(started_trials(trials.study)) == 1


def test_values_that_make_no_recipe_fail_their_trial_alone(tmp_path: Path) -> None:
    points = ({"schedule.steps": -1}, {"schedule.steps": 3})
    steps = {"schedule.steps": Dimension(choice=(-1, 3))}
    unchecked = space(tmp_path).model_copy(update={"space": steps, "points": points, "trials": 2})
    trials = trials_of(tmp_path, unchecked)
    proposer = make_proposer(trials)
    assert proposed(proposer).experiment.recipe.schedule.steps == 3
    assert [trial.state for trial in trials.study.trials] == [TrialState.FAIL, TrialState.RUNNING]
    assert "schedule.steps" in trials.study.trials[0].user_attrs[REASON]
    assert proposer.next() is DONE, "it counts"


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
