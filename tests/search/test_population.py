"""Population-based training as trials of a study: who goes on from whom, with which numbers; without Ray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from raykd.recipe.recipe import Recipe, load_recipe
from raykd.search import tuners
from raykd.search.attributes import CHANGES, GENERATION, MEMBER, RUN, START
from raykd.search.population import Population
from raykd.search.proposer import make_proposer
from raykd.search.report import build_report, write_search
from raykd.search.space import SearchSpace
from raykd.search.space_file import load_space
from raykd.search.study import best_trials, open_study
from raykd.search.trials import DONE, WAIT, Complete, Failed, NoProposal, Proposal, StudyTrials, TrialReport
from raykd.search.tuners import registered_tuner
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

BOUNDS = {"method.temperature": {"loguniform": [1, 20]}, "student_optim.lr": {"uniform": [0.0001, 0.01]}}
ENDS = [20, 40, 50]


def space(folder: Path, **changes: Any) -> SearchSpace:
    raw = {
        "recipe": "kd_digits",
        "overrides": {"schedule.steps": 50, "schedule.report_every": 10},
        "trials": 4,
        "scheduler": {"name": "pbt", "interval": 2},
        "space": BOUNDS,
        **changes,
    }
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(raw)), sort_keys=False))
    return load_space(str(path))


class Tuner:
    """A tuner of a population whose trials are trained by nobody, and end with what a test gives them."""

    def __init__(self, folder: Path, searched: SearchSpace, name: str = "one") -> None:
        self.folder = folder
        # A journal is several times faster than the file that a search keeps.
        self.study = open_study(searched, ("accuracy",), folder / "made-0", f"journal:{folder}/made-0.journal")
        self.population = Population(
            StudyTrials(self.study, searched, ("accuracy",), Workspace(None, folder), tuner=name)
        )

    def ask(self) -> Proposal | NoProposal:
        proposal = self.population.next()
        if isinstance(proposal, Proposal):
            run = RunDirectory(self.folder / proposal.experiment.run_id)
            run.path.mkdir(exist_ok=True)
            run.write_status(state="interrupted")
        return proposal

    def end(self, proposal: Proposal, accuracy: float | None) -> None:
        complete = Complete(TrialReport(1, {"accuracy": accuracy or 0.0}), images_made=0, test_accuracy=None)
        self.population.ended(proposal.trial, Failed("broken") if accuracy is None else complete)

    def generation(self, train: Callable[[Recipe], float | None]) -> list[Proposal]:
        """Train all members of a generation, several at a time; nothing else may start before all have ended."""
        at_work = []
        while isinstance(proposal := self.ask(), Proposal):
            at_work.append(proposal)
        for number, proposal in enumerate(at_work):
            if number:
                assert self.ask() in (WAIT, DONE), "a generation waits for its last member"
            self.end(proposal, train(proposal.experiment.recipe))
        return at_work


def temperature(recipe: Recipe) -> float:
    last: Any = recipe.segments()[-1][0]
    return float(last.method.temperature)


def members(study: optuna.Study, generation: int) -> list[optuna.trial.FrozenTrial]:
    found = [trial for trial in study.trials if trial.user_attrs.get(GENERATION) == generation]
    return sorted(found, key=lambda trial: trial.user_attrs[MEMBER])


def test_the_worst_go_on_from_the_best_and_the_others_as_they_are(tmp_path: Path) -> None:
    searched = space(tmp_path)
    tuner = Tuner(tmp_path, searched)
    first = tuner.generation(temperature)
    assert [proposal.segment for proposal in first] == [(0, 20)] * 4
    second = tuner.generation(temperature)
    assert [proposal.segment for proposal in second] == [(20, 40)] * 4
    third = tuner.generation(temperature)
    assert [proposal.segment for proposal in third] == [(40, None)] * 4
    assert tuner.ask() is DONE
    before, after = members(tuner.study, 0), members(tuner.study, 1)
    worst = min(before, key=lambda trial: trial.values[0])
    best = max(before, key=lambda trial: trial.values[0])
    for old, new in zip(before, after, strict=True):
        if old.number != worst.number:
            assert (new.params, new.user_attrs[RUN], new.user_attrs[CHANGES]) == (old.params, old.user_attrs[RUN], [])
            continue
        assert new.user_attrs[START] == best.params
        assert new.user_attrs[CHANGES] == [{"at": 20, "values": new.params}]
        assert new.params != best.params
        assert new.user_attrs[RUN] not in {one.user_attrs[RUN] for one in before}
    assert RunDirectory(tmp_path / worst.user_attrs[RUN]).status()["state"] == "pruned", "its run will not be continued"
    assert [temperature(one.experiment.recipe) for one in second] == [
        trial.params["method.temperature"] for trial in after
    ]


def test_numbers_stay_in_their_bounds_and_near_the_better_ones(tmp_path: Path) -> None:
    searched = space(tmp_path, trials=8, scheduler={"name": "pbt", "quantile": 0.5, "resample": 0.0})
    tuner = Tuner(tmp_path, searched)
    for _ in range(4):
        tuner.generation(temperature)  # the hottest wins, which drives it to its bound
    seen = set()
    for generation in range(1, 4):
        parents = {json.dumps(trial.params) for trial in members(tuner.study, generation - 1)}
        for trial in members(tuner.study, generation):
            assert all(searched.space[key].contains(value) for key, value in trial.params.items())
            seen.add(trial.params["method.temperature"])
            near = [
                all(
                    any(new == pytest.approx(min(max(old[key] * factor, searched.space[key].samples[0]),
                                                 searched.space[key].samples[1]), rel=1e-5)
                        for factor in (0.8, 1.0, 1.2))
                    for key, new in trial.params.items()
                )
                for old in map(json.loads, parents)
            ]  # fmt: skip
            assert any(near)
    assert len(seen) > 8


def test_a_number_does_not_leave_its_range(tmp_path: Path) -> None:
    points = [{"method.temperature": 20.0, "student_optim.lr": 0.0001}] * 16
    tuner = Tuner(tmp_path, space(tmp_path, trials=16, points=points, scheduler={"name": "pbt", "resample": 0.0}))
    tuner.generation(temperature)
    tuner.generation(temperature)
    heirs = [trial.params for trial in members(tuner.study, 1) if trial.user_attrs[CHANGES]]
    assert {one["method.temperature"] for one in heirs} == {16.0, 20.0}
    assert {one["student_optim.lr"] for one in heirs} == {0.0001, 0.00012}


def test_numbers_are_drawn_anew_as_often_as_asked(tmp_path: Path) -> None:
    searched = space(tmp_path, trials=20, scheduler={"name": "pbt", "quantile": 0.5, "resample": 1.0})
    tuner = Tuner(tmp_path, searched)
    tuner.generation(temperature)
    tuner.generation(temperature)
    new = [trial.params["method.temperature"] for trial in members(tuner.study, 1) if trial.user_attrs[CHANGES]]
    assert len(new) == 10
    assert min(new) < 4 < max(new), "over all of a logarithmic range"


def test_a_failed_member_goes_on_from_a_better_one(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path, space(tmp_path))
    values = iter([None, 5.0, None, 6.0])
    tuner.generation(lambda recipe: next(values))
    tuner.ask()
    heirs = [trial for trial in members(tuner.study, 1) if trial.user_attrs[CHANGES]]
    assert [trial.user_attrs[MEMBER] for trial in heirs] == [0, 2]
    best = members(tuner.study, 0)[3]
    assert all(trial.user_attrs[START] == best.params for trial in heirs)


def test_where_all_fail_there_is_no_next_generation(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path, space(tmp_path))
    tuner.generation(lambda recipe: None)
    assert tuner.ask() is DONE
    assert len(tuner.study.trials) == 4
    assert tuner.population.failure() == "all 4 members failed in generation 0: broken"


def test_a_generation_of_which_some_live_is_no_failure(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path, space(tmp_path))
    assert tuner.population.failure() is None
    tuner.generation(lambda recipe: temperature(recipe) if temperature(recipe) > 2 else None)
    assert tuner.population.failure() is None
    tuner.generation(lambda recipe: None)
    assert tuner.population.failure() == "all 4 members failed in generation 1: broken"


@pytest.mark.parametrize("enqueued", [0, 1, 3])
def test_a_tuner_that_died_while_it_proposed_is_followed_by_one_that_says_the_same(
    tmp_path: Path, enqueued: int
) -> None:
    whole = Tuner(tmp_path / "whole", space(tmp_path))
    whole.generation(temperature)
    whole.ask()
    expected = [(one.params, one.user_attrs[CHANGES]) for one in members(whole.study, 1)]
    tuner = Tuner(tmp_path / "dying", space(tmp_path))
    tuner.generation(temperature)
    calls = 0
    original = tuner.study.enqueue_trial

    def dying(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        if calls == enqueued:
            raise KeyboardInterrupt
        calls += 1
        original(*arguments, **named)

    tuner.study.enqueue_trial = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        tuner.ask()
    second = Tuner(tmp_path / "dying", space(tmp_path), "two")
    second.ask()
    assert [(one.params, one.user_attrs[CHANGES]) for one in members(second.study, 1)] == expected


def test_what_a_dead_tuner_left_at_work_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuners, "_BEAT_SECONDS", 0.2)
    searched = space(tmp_path)
    folder = tmp_path / "made-0"
    dead = Tuner(tmp_path, searched, "dead")
    dead.generation(temperature)
    assert isinstance(dead.ask(), Proposal)
    (folder / tuners.TUNERS).mkdir()
    (folder / tuners.TUNERS / "dead").touch()
    with registered_tuner(dead.study, folder, shared=True) as name:
        tuner = Tuner(tmp_path, searched, name)
        assert len(tuner.generation(temperature)) == 4
        assert len(tuner.generation(temperature)) == 4
    assert tuner.ask() is DONE
    done = [trial for trial in tuner.study.trials if trial.state == TrialState.COMPLETE]
    assert sorted((trial.user_attrs[GENERATION], trial.user_attrs[MEMBER]) for trial in done) == [
        (generation, member) for generation in range(3) for member in range(4)
    ]


def test_points_are_the_first_members(tmp_path: Path) -> None:
    points = [{"method.temperature": float(n), "student_optim.lr": 0.001} for n in range(2, 5)]
    searched = space(tmp_path, points=points)
    tuner = Tuner(tmp_path, searched)
    make_proposer(StudyTrials(tuner.study, searched, ("accuracy",), Workspace(None, tmp_path), tuner="one"))
    assert not tuner.study.trials, "no sampler is to try them"
    first = tuner.generation(temperature)
    assert [temperature(one.experiment.recipe) for one in first][:3] == [2.0, 3.0, 4.0]


def test_the_best_of_the_last_generation_is_a_recipe_that_trains_all_of_it(tmp_path: Path) -> None:
    searched = space(tmp_path, overrides={"schedule.steps": 50, "schedule.report_every": 10, "data.holdout": 0.1})
    tuner = Tuner(tmp_path, searched)
    tuner.generation(temperature)
    tuner.generation(temperature)
    proposals = tuner.generation(lambda recipe: -temperature(recipe))
    best = best_trials(tuner.study)
    assert {trial.user_attrs[GENERATION] for trial in best} == {2}, "an earlier part of a training is no student yet"
    report = build_report("made", tuner.study.trials, best, searched, ("accuracy",), 12)
    write_search(report, searched, tmp_path / "made-0")
    made = load_recipe(str(tmp_path / "made-0/best.yaml"))
    coldest = min((one.experiment for one in proposals), key=lambda experiment: temperature(experiment.recipe))
    assert made.changes == coldest.recipe.changes
    assert temperature(made) == temperature(coldest.recipe)
    assert made.data.holdout == 0, "it learns from all images"
    assert report.best[0].run == coldest.run_id


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": 2}, "one run, not seeds: 2"),
        ({"sampler": {"name": "tpe"}}, "sampler 'tpe' has no say"),
        ({"space": {"student.model": {"choice": ["lenet5", "lenet5_half"]}}}, "'student.model' is a choice, a count"),
        ({"space": {"schedule.global_batch": {"int": [8, 16]}}}, "'schedule.global_batch' is a choice, a count"),
        ({"space": {"data.holdout": {"uniform": [0.1, 0.2]}}}, "'data.holdout' cannot change during a training"),
        ({"scheduler": {"name": "pbt", "interval": 5}}, "once, at the end, step 50: lower scheduler.interval"),
        ({"scheduler": {"name": "pbt", "quantile": 0.6}}, "scheduler.quantile: got 0.6"),
        ({"objectives": ["accuracy", "parameters"]}, "by one objective, and there are 2"),
    ],
)
def test_what_a_population_cannot_do_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says):
        space(tmp_path, **changes)
