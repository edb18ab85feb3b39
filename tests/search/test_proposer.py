"""A sampler's trials: which are proposed, and when there are enough; without Ray."""

from pathlib import Path

from optuna.trial import Trial, TrialState

from raykd.search.attributes import REASON, RUN, TOO_MANY, TUNER
from raykd.search.dimension import Dimension
from raykd.search.population import Population
from raykd.search.proposer import Proposer, Sampling, make_proposer
from raykd.search.space import SearchSpace
from raykd.search.study import started_trials
from raykd.search.trials import DONE, Failed, Proposal, StudyTrials
from raykd.store.workspace import Workspace
from tests.search.made_study import opened, space


def trials_of(folder: Path, searched: SearchSpace, *objectives: str, tuner: str = "one") -> StudyTrials:
    study = opened(folder, searched, *objectives)
    return StudyTrials(study, searched, objectives or ("accuracy",), Workspace(None, folder), tuner)


def proposed(proposer: Proposer) -> Proposal:
    proposal = proposer.next()
    assert isinstance(proposal, Proposal)
    return proposal


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
