"""The study: what is proposed, what counts, and what a dead tuner leaves; without Ray."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from raykd.errors import CorruptError, SetupError, UsageError
from raykd.recipe.recipe import load_recipe
from raykd.results import TrialCounts, TrialFailure
from raykd.search.attributes import RUN, TOO_MANY, TUNER
from raykd.search.grid import count_trials, make_grid
from raykd.search.report import build_report, read_values, write_figures, write_search
from raykd.search.space import SearchSpace
from raykd.search.space_file import load_space
from raykd.search.study import (
    best_trials,
    draw_values,
    end_trial,
    ended_trials,
    enqueue,
    learn_from_earlier,
    load_earlier_trials,
    open_study,
    registered_tuner,
    started_trials,
)

SPACE: dict[str, dict[str, Any]] = {
    "student.model": {"choice": ["lenet5_half", "hinton800"]},
    "data.augment": {"choice": [[], ["crop"]]},
    "method.temperature": {"loguniform": [1, 100], "when": {"student.model": "hinton800"}},
    "schedule.steps": {"int": [3, 9]},
}


def space(folder: Path, **changes: Any) -> SearchSpace:
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump({"recipe": "kd_digits", "space": SPACE, **changes}, sort_keys=False))
    return load_space(str(path))


def opened(folder: Path, searched: SearchSpace, *objectives: str, url: str | None = None) -> optuna.Study:
    return open_study(searched, objectives or ("accuracy",), folder / "made-0", url)


@pytest.mark.parametrize("url", [None, "journal:{}/journal.log", "sqlite:///{}/other.db"])
def test_values_are_drawn_from_the_space_and_read_back(tmp_path: Path, url: str | None) -> None:
    searched = space(tmp_path)
    study = opened(tmp_path, searched, url=url and url.format(tmp_path))
    seen = []
    for _ in range(20):
        trial = study.ask()
        values = draw_values(trial, searched)
        assert ("method.temperature" in values) == (values["student.model"] == "hinton800")
        assert all(searched.space[key].contains(value) for key, value in values.items())
        study.tell(trial, 1.0)
        seen.append(values)
    again = opened(tmp_path, searched, url=url and url.format(tmp_path))
    assert [read_values(trial, searched) for trial in again.trials] == seen
    assert again.metric_names == ["accuracy"]
    assert len({repr(values["data.augment"]) for values in seen}) == 2


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid", "cmaes"])
def test_every_sampler_proposes(tmp_path: Path, sampler: str, caplog: pytest.LogCaptureFixture) -> None:
    without_when = {key: {"uniform": [1, 100]} if "when" in one else one for key, one in SPACE.items()}
    searched = space(
        tmp_path, sampler={"name": sampler, "startup": 4}, space=without_when if sampler == "cmaes" else SPACE
    )
    study = opened(tmp_path, searched)
    optuna.logging.enable_propagation()
    for index in range(8):
        trial = study.ask()
        draw_values(trial, searched)
        study.tell(trial, float(index))
    optuna.logging.disable_propagation()
    assert best_trials(study)[0].number == 7
    assert not caplog.messages, "a choice that a sampler draws by itself is no news"


@pytest.mark.parametrize("url", [None, "journal:{}/journal.log"])
def test_no_two_tuners_take_the_same_waiting_trial(tmp_path: Path, url: str | None) -> None:
    points = [{"schedule.steps": 3}] + [{"method.temperature": 1.0 + number} for number in range(39)]
    searched = space(tmp_path, points=points, sampler={"name": "random"})
    studies = [opened(tmp_path, searched, url=url and url.format(tmp_path)) for _ in range(2)]
    enqueue(studies[0], searched)

    def ask(study: optuna.Study) -> list[int]:
        return [study.ask().number for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        taken = [number for numbers in pool.map(ask, studies) for number in numbers]
    assert sorted(taken) == list(range(40))


def test_cmaes_moves_numbers(tmp_path: Path) -> None:
    numbers = {"method.temperature": {"uniform": [1, 9]}, "method.alpha": {"uniform": [0.1, 0.9]}}
    searched = space(tmp_path, sampler={"name": "cmaes", "startup": 2}, space=numbers)
    study = opened(tmp_path, searched)
    for _ in range(30):
        trial = study.ask()
        values = draw_values(trial, searched)
        study.tell(trial, -((values["method.temperature"] - 6) ** 2))
    assert best_trials(study)[0].values[0] > -0.1


def test_a_grid_has_every_combination_once(tmp_path: Path) -> None:
    searched = space(tmp_path, sampler={"name": "grid", "grid": 3})
    grid = make_grid(searched)
    assert len(grid) == 2 * 3 + 2 * 3 * 3  # without and with a temperature
    assert sorted({point["method.temperature"] for point in grid if "method.temperature" in point}) == pytest.approx(
        [1, 10, 100]
    )
    study = opened(tmp_path, searched)
    enqueue(study, searched)
    enqueue(study, searched)  # as the same command would, once more
    found = []
    for _ in grid:
        trial = study.ask()
        found.append(draw_values(trial, searched))
        study.tell(trial, 0.0)
    assert sorted(map(repr, found)) == sorted(map(repr, grid))


@pytest.mark.parametrize(("trials", "target", "left_out"), [(None, 5, 0), (9, 5, 0), (3, 3, 2)])
def test_a_grid_is_whole_with_its_points_unless_trials_says_fewer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trials: int | None, target: int, left_out: int
) -> None:
    points = [{"method.temperature": 5.5}, {"method.temperature": 1}]  # off the grid, and on it
    grid = {"name": "grid", "grid": 4}
    changes = {} if trials is None else {"trials": trials}
    searched = space(
        tmp_path, sampler=grid, points=points, space={"method.temperature": {"uniform": [1, 7]}}, **changes
    )
    assert count_trials(searched) == target
    study = opened(tmp_path, searched)
    enqueue(study, searched)
    enqueue(study, searched)
    drawn = [draw_values(study.ask(), searched)["method.temperature"] for _ in range(target)]
    assert drawn == [5.5, 1.0, 3.0, 5.0, 7.0][:target]
    assert len(study.trials) == target
    assert [f"{left_out} of them are left out" in message for message in caplog.messages] == [True, True][:left_out]


def test_the_whole_of_a_large_grid_is_wanted(tmp_path: Path) -> None:
    large = {"method.temperature": {"uniform": [1, 7]}, "schedule.steps": {"int": [1, 9]}}
    assert count_trials(space(tmp_path, sampler={"name": "grid", "grid": 9}, space=large)) == 81
    assert count_trials(space(tmp_path, space=large)) == 24


def test_points_come_first(tmp_path: Path) -> None:
    point = {"student.model": "hinton800", "data.augment": ["crop"], "method.temperature": 4.0, "schedule.steps": 5}
    searched = space(tmp_path, points=[point])
    study = opened(tmp_path, searched)
    enqueue(study, searched)
    assert draw_values(study.ask(), searched) == point


def test_what_a_dead_tuner_was_at_is_asked_for_again(tmp_path: Path) -> None:
    searched = space(tmp_path)
    study = opened(tmp_path, searched)
    with registered_tuner(study, tmp_path / "made-0") as dead:
        at_work = study.ask()
        values = draw_values(at_work, searched)
        at_work.set_user_attr(TUNER, dead)
        with registered_tuner(study, tmp_path / "made-0"):  # another that lives takes nothing
            assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    elsewhere = study.ask()
    draw_values(elsewhere, searched)
    elsewhere.set_user_attr(TUNER, "of another folder")
    with registered_tuner(study, tmp_path / "made-0"):
        assert draw_values(study.ask(), searched) == values
    assert ended_trials(study) == [], "a trial that is repeated does not count"
    assert study.trials[elsewhere.number].state == TrialState.RUNNING


def test_of_two_tuners_that_start_together_one_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = space(tmp_path)
    study = opened(tmp_path, searched)
    with registered_tuner(study, tmp_path / "made-0") as dead:
        trial = study.ask()
        draw_values(trial, searched)
        trial.set_user_attr(TUNER, dead)
    enqueue_trial = optuna.Study.enqueue_trial

    def enqueue_slowly(*given: Any, **named: Any) -> None:
        time.sleep(0.5)
        enqueue_trial(*given, **named)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", enqueue_slowly)

    def register(mine: optuna.Study) -> None:
        with registered_tuner(mine, tmp_path / "made-0"):
            together.wait(timeout=60)

    together = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(register, [opened(tmp_path, searched) for _ in range(2)]))
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_whose_tuner_died_as_it_asked_is_taken_over_by_who_is_alone(tmp_path: Path) -> None:
    """It keeps the values that it was enqueued with; while others are there, it may be one of theirs."""
    point = {"student.model": "hinton800", "data.augment": ["crop"], "method.temperature": 4.0, "schedule.steps": 5}
    searched = space(tmp_path, points=[point])
    study, folder = opened(tmp_path, searched), tmp_path / "made-0"
    enqueue(study, searched)
    with registered_tuner(study, folder):
        study.ask()
        with registered_tuner(study, folder):
            assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    with registered_tuner(study, folder):
        assert draw_values(study.ask(), searched) == point
    other = study.ask()
    other.set_user_attr(TUNER, "of another folder")
    with registered_tuner(study, folder):
        assert [trial.state for trial in study.trials[1:]] == [TrialState.RUNNING] * 2


def test_a_trial_that_was_being_given_back_is_not_asked_for_again(tmp_path: Path) -> None:
    study, folder = opened(tmp_path, space(tmp_path)), tmp_path / "made-0"
    with registered_tuner(study, folder) as dead:
        trial = study.ask()
        trial.set_user_attr(TUNER, dead)
        trial.set_user_attr(TOO_MANY, True)
    with registered_tuner(study, folder):
        assert [trial.state for trial in study.trials] == [TrialState.FAIL]


def test_an_earlier_search_is_learnt_from_and_does_not_count(tmp_path: Path) -> None:
    filled_study(tmp_path, "accuracy")
    folder = tmp_path / "made-0"
    narrower = {**SPACE, "schedule.steps": {"int": [3, 6]}}
    searched = space(tmp_path, earlier=str(folder), space=narrower)
    study = open_study(searched, ("accuracy",), tmp_path / "new-0", None)
    learnt = learn_from_earlier(study, searched)
    assert 0 < learnt <= 6
    assert learn_from_earlier(study, searched) == 0, "once"
    assert all(trial.params["schedule.steps"] <= 6 for trial in study.trials)
    assert started_trials(study) == best_trials(study) == []
    draw_values(study.ask(), searched)
    folder.rename(tmp_path / "renamed")
    renamed = space(tmp_path, earlier=str(tmp_path / "renamed"), space=narrower)
    assert len(load_earlier_trials(renamed, ("accuracy",))) == learnt
    with pytest.raises(UsageError, match=r"wanted \['accuracy'\], this one wants \['parameters'\]"):
        load_earlier_trials(renamed, ("parameters",))


def test_an_earlier_search_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    searched = space(tmp_path, earlier=str(tmp_path / "old"))
    with pytest.raises(UsageError, match="no study.db in .*old: 'earlier' is the folder"):
        load_earlier_trials(searched, ("accuracy",))
    (tmp_path / "old").mkdir()
    (tmp_path / "old/search.json").touch()
    with pytest.raises(UsageError, match="in a database or a journal, .* copy it with optuna.copy_study.*old/study.db"):
        load_earlier_trials(searched, ("accuracy",))
    for damage, says in ((b"x" * 5000, "file is not a database"), (b"", "exactly 1 study")):
        (tmp_path / "old/study.db").write_bytes(damage)
        with pytest.raises(UsageError, match=f"old/study.db cannot be read as the study of a search: .*{says}"):
            load_earlier_trials(searched, ("accuracy",))


def test_a_storage_that_cannot_be_opened_is_told_without_its_secret(tmp_path: Path) -> None:
    for url in ("postgresql://me:secret@127.0.0.1:1/none", "nothing://x", f"sqlite:///{tmp_path}/no/where.db"):
        with pytest.raises(SetupError, match="the study cannot be opened at") as caught:
            opened(tmp_path, space(tmp_path), url=url)
        assert "secret" not in str(caught.value)
    opened(tmp_path, space(tmp_path))
    with pytest.raises(SetupError, match="cannot be opened"):  # the same study cannot want something else
        opened(tmp_path, space(tmp_path), "accuracy", "parameters")


def filled_study(tmp_path: Path, *objectives: str) -> tuple[optuna.Study, SearchSpace]:
    searched = space(tmp_path, overrides={"data.holdout": 0.1})
    study = opened(tmp_path, searched, *objectives)
    for index in range(6):
        trial = study.ask()
        draw_values(trial, searched)
        trial.set_user_attr(RUN, f"run-{index}")
        if len(objectives) == 1:
            trial.report(index / 2, 1)
        study.tell(trial, [float(index), float(-index)][: len(objectives)])
    failing = study.ask()
    draw_values(failing, searched)
    failing.set_user_attr("reason", "loss is not finite")
    study.tell(failing, state=TrialState.FAIL)
    return study, searched


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
def test_the_figures_are_there(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    study, _ = filled_study(tmp_path, *objectives)
    written = write_figures(study, tmp_path / "figures")
    kinds = ("history", "importances", "parallel", "slice")
    ends = ("",) if len(objectives) == 1 else ("_accuracy", "_parameters")
    assert set(written) == {kind + end for kind in kinds for end in ends} | ({"pareto"} if len(ends) > 1 else set())
    for name in written:
        assert "Plotly.newPlot" in (tmp_path / "figures" / f"{name}.html").read_text()


CHANGES = [
    "UPDATE trial_values SET value = value + 1 WHERE trial_id = 2",
    "UPDATE trial_params SET param_value = 2.5 WHERE trial_id = 3 AND param_name = 'method.temperature'",
    "UPDATE trial_intermediate_values SET intermediate_value = 0.25 WHERE trial_id = 3",
    "UPDATE trial_user_attributes SET value_json = '7' WHERE trial_id = 2 AND key = 'images made'",
    "DELETE FROM trial_values WHERE trial_id = 2",
]


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_a_trial_that_is_not_as_it_was_recorded_is_named(tmp_path: Path, change: str | None) -> None:
    searched = space(tmp_path, space={"method.temperature": {"uniform": [1, 9]}})
    study = opened(tmp_path, searched)
    for number, values in enumerate(([50.0], [60.0], None)):
        trial = study.ask()
        draw_values(trial, searched)
        trial.set_user_attr("images made", 100 * number)
        trial.report(0.5, 1)
        end_trial(study, trial, values)
    study.trials[0].set_user_attr("note", "it may be commented on")
    if change is None:
        assert [trial.values for trial in opened(tmp_path, searched).trials] == [[50.0], [60.0], [0.5]]
        return
    with closing(sqlite3.connect(tmp_path / "made-0" / "study.db")) as database:
        assert database.execute(change).rowcount == 1
        database.commit()
    with pytest.raises(CorruptError, match=r"study.db is damaged \(.+\); restore it"):
        opened(tmp_path, searched)
