"""What Ray Tune says of a trial, as the search understands it; without Ray's processes."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raykd.runners.ray.searcher import StudySearcher
from raykd.runners.ray.trial import FAILED, FINAL, INTERRUPTED, OUTAGE, REPORT
from raykd.search.attributes import IMAGES_MADE, TEST_ACCURACY, TUNER
from raykd.search.proposer import Sampling
from raykd.search.trials import Complete, Failed, Pruned, StudyTrials, TrialOutcome, TrialReport
from tests.search.made_study import space
from tests.search.test_proposer import trials_of

REPORTED = {REPORT: 2, "accuracy": 90.0, "time_total_s": 1.0}
HALFWAY = TrialReport(2, {"accuracy": 90.0})


class Tuner:
    """A searcher whose proposer notes how trials end."""

    def __init__(self, folder: Path) -> None:
        self.trials = trials_of(folder, space(folder, trials=1))
        self.proposer = Sampling(self.trials)
        self.outcomes: list[TrialOutcome] = []
        self.outages: list[str] = []
        self.given_up: list[str] = []
        self.stopping = False
        self.proposer.ended = lambda trial, outcome: self.outcomes.append(outcome)  # type: ignore[method-assign]
        self.searcher = StudySearcher(
            self.trials,
            self.proposer,
            should_stop=lambda: self.stopping,
            make_config=lambda experiment, segment: {"run": experiment.run_id, "segment": segment},
            on_outage=self.outages.append,
            on_taken_over=self.given_up.append,
        )


@pytest.mark.parametrize(
    ("result", "died", "outcome"),
    [
        ({**REPORTED, FINAL: 1.0, IMAGES_MADE: 5, TEST_ACCURACY: 50.0}, False, Complete(HALFWAY, 5, 50.0)),
        ({**REPORTED, FINAL: 1.0, IMAGES_MADE: 5}, False, Complete(HALFWAY, 5, None)),
        (REPORTED, False, Pruned(HALFWAY)),
        ({FAILED: "loss is not finite"}, False, Failed("loss is not finite")),
        (REPORTED, True, Failed("its process died")),
        (None, True, Failed("its process died")),
        ({INTERRUPTED: 1.0}, False, None),
        (None, False, None),
    ],
)
def test_a_trial_ends(tmp_path: Path, result: dict[str, Any] | None, died: bool, outcome: TrialOutcome | None) -> None:
    tuner = Tuner(tmp_path)
    config = tuner.searcher.suggest("a")
    assert isinstance(config, dict)
    assert config["segment"] == (0, None)
    tuner.searcher.on_trial_complete("a", result, error=died)
    assert tuner.outcomes == ([] if outcome is None else [outcome])
    tuner.searcher.on_trial_complete("a", result, error=died)
    assert len(tuner.outcomes) <= 1, "a trial ends once"


def test_a_trial_that_tune_ends_because_the_search_stops_stays_at_work(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path)
    tuner.searcher.suggest("a")
    tuner.stopping = True
    tuner.searcher.on_trial_complete("a", REPORTED)
    assert tuner.outcomes == []


def test_a_trial_that_is_killed_because_it_does_not_answer_a_stop_stays_at_work(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path)
    tuner.searcher.suggest("a")
    tuner.stopping = True
    tuner.searcher.on_trial_complete("a", REPORTED, error=True)
    assert tuner.outcomes == []


def test_a_trial_that_another_tuner_has_taken_over_is_given_up_at_its_next_report(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path)
    tuner.searcher.suggest("a")
    tuner.searcher.on_trial_result("a", REPORTED)
    assert tuner.given_up == []
    study = tuner.trials.study
    study._storage.set_trial_user_attr(study.trials[0]._trial_id, TUNER, "another")
    tuner.searcher.on_trial_result("a", {**REPORTED, REPORT: 3})
    assert tuner.given_up == ["a"]
    assert study.trials[0].intermediate_values == {2: 90.0}
    tuner.searcher.on_trial_complete("a", {INTERRUPTED: 1.0})
    assert tuner.outcomes == []


def test_an_outage_is_passed_on_and_fails_no_trial(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path)
    tuner.searcher.suggest("a")
    tuner.searcher.on_trial_complete("a", {INTERRUPTED: 1.0, OUTAGE: "the disk is full"})
    assert (tuner.outages, tuner.outcomes) == (["trial 0: the disk is full"], [])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "search.json"), "search.json: No space left on device"),
        (
            StorageInternalError("at the commit"),
            "study made-0 cannot be read or written .at the commit.; mend its",
        ),
    ],
)
def test_a_disk_or_a_database_that_fails_in_the_driver_fails_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise fault

    tuner = Tuner(tmp_path)
    tuner.searcher.suggest("a")
    monkeypatch.setattr(StudyTrials, "record_report", fail)
    monkeypatch.setattr(tuner.proposer, "ended", fail)
    monkeypatch.setattr(tuner.proposer, "next", fail)
    tuner.searcher.on_trial_result("a", REPORTED)
    tuner.searcher.on_trial_complete("a", {**REPORTED, FINAL: 1.0, IMAGES_MADE: 5})
    assert tuner.searcher.suggest("b") == Searcher.FINISHED
    assert len(tuner.outages) == 3
    assert all(re.search(said, outage) for outage in tuner.outages), tuner.outages
    assert [trial.state for trial in tuner.trials.study.trials] == [TrialState.RUNNING], "left to the next tuner"


def test_reports_are_recorded_and_the_search_ends_at_its_target(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path)
    tuner.searcher.suggest("a")
    tuner.searcher.on_trial_result("a", REPORTED)
    tuner.searcher.on_trial_result("a", {**REPORTED, REPORT: 3, FINAL: 1.0})
    assert tuner.trials.study.trials[0].intermediate_values == {2: 90.0}, "the last one is recorded with the end"
    assert tuner.searcher.suggest("b") == Searcher.FINISHED
