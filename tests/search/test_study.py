"""The study: what is proposed, what counts, and what a dead tuner leaves; without Ray."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from optuna.trial import TrialState

from raykd.errors import CorruptError, UsageError
from raykd.search.report import read_values
from raykd.search.study import (
    best_trials,
    draw_values,
    end_trial,
    enqueue,
    learn_from_earlier,
    load_earlier_trials,
    open_study,
    started_trials,
)
from tests.search.made_study import SPACE, filled_study, opened, space


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


def test_points_come_first(tmp_path: Path) -> None:
    point = {"student.model": "hinton800", "data.augment": ["crop"], "method.temperature": 4.0, "schedule.steps": 5}
    searched = space(tmp_path, points=[point])
    study = opened(tmp_path, searched)
    enqueue(study, searched)
    assert draw_values(study.ask(), searched) == point


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


def test_a_trial_that_failed_after_its_tuner_had_died_at_the_end_of_it_is_as_recorded(tmp_path: Path) -> None:
    """The sum of what would have been its values is in the study, and they are not."""
    searched = space(tmp_path, space={"method.temperature": {"uniform": [1, 9]}})
    study = opened(tmp_path, searched)
    trial = study.ask()
    draw_values(trial, searched)
    with pytest.MonkeyPatch.context() as dying:
        dying.setattr(study, "tell", lambda *_: None)
        end_trial(study, trial, [50.0])
    study.tell(trial, state=TrialState.FAIL)
    assert [one.state for one in opened(tmp_path, searched).trials] == [TrialState.FAIL]
