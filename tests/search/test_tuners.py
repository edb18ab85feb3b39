"""Tuners of one study: who lives, and who takes over what a dead one left, on one machine and on several; without Ray.

A machine is a folder here, since the tuners' files stay in it; a database is a SQLite file outside of both.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from raykd.search import tuners
from raykd.search.attributes import TAKER, TOO_MANY, TUNER
from raykd.search.space import SearchSpace
from raykd.search.study import draw_values, ended_trials, enqueue, open_study
from raykd.search.trials import Complete, Failed, Pruned, StudyTrials, TrialReport
from raykd.search.tuners import registered_tuner
from raykd.store.mirror import Mirror
from raykd.store.remote import Remote
from raykd.store.workspace import Workspace
from tests.object_store import Server
from tests.search.made_study import opened, space

BEAT = 0.1  # seconds
PATIENT = 1.0  # between the looks at one that lives, which a busy machine may hold up
LONG = 9.0  # less than a single look at another takes in a real search


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuners give their signs of life quickly, also in processes that are forked now."""
    monkeypatch.setattr(tuners, "_BEAT_SECONDS", BEAT)
    monkeypatch.setattr(tuners, "_SETTLE_SECONDS", 3 * BEAT)


def shared(root: Path, searched: SearchSpace, machine: str, kind: str = "sqlite:///{}/shared.db") -> optuna.Study:
    """Open the study in the database from one of the machines."""
    return open_study(searched, ("accuracy",), root / machine / "made-0", kind.format(root))


@contextmanager
def tuner_at_work(root: Path, searched: SearchSpace, machine: str, **how: Any) -> Iterator[int]:
    """Have a process register and ask for a trial; yield its id, and have it leave in the end if it lives."""
    heard, told = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _work(root, searched, machine, heard[1], told[0], **how)
        finally:
            os._exit(1)
    try:
        assert os.read(heard[0], 1) == b"."
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.write(told[1], b".")
            os.waitpid(pid, 0)
        for end in (*heard, *told):
            os.close(end)


def _work(
    root: Path, searched: SearchSpace, machine: str, say: int, listen: int, kind: str | None = None, skew: float = 0.0
) -> None:
    now, monotonic = time.time, time.monotonic
    with (
        mock.patch.object(time, "time", lambda: now() + skew),
        mock.patch.object(time, "monotonic", lambda: monotonic() + skew),
    ):
        study = shared(root, searched, machine, **({} if kind is None else {"kind": kind}))
        with registered_tuner(study, root / machine / "made-0", shared=True) as name:
            StudyTrials(study, searched, ("accuracy",), Workspace(None, root), name).ask()
            os.write(say, b".")
            os.read(listen, 1)
    os._exit(0)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.trials]


def seconds_of(action: Callable[[], Any]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def start(study: optuna.Study, root: Path, machine: str, patience: float | None = None) -> None:
    """Register on a machine and leave again."""
    seconds = tuners._BEAT_SECONDS if patience is None else patience
    with (
        mock.patch.object(tuners, "_BEAT_SECONDS", seconds),
        registered_tuner(study, root / machine / "made-0", shared=True),
    ):
        pass


PLACES = [
    ("sqlite:///{}/shared.db", 0.0),
    ("journal:{}/shared.journal", 7200.0),
    ("journal:{}/shared.journal", -7200.0),
]


@pytest.mark.parametrize(("kind", "skew"), PLACES)
def test_a_live_tuner_of_another_machine_keeps_its_trial(tmp_path: Path, fast: None, kind: str, skew: float) -> None:
    searched = space(tmp_path)
    with tuner_at_work(tmp_path, searched, "one", kind=kind, skew=skew):
        study = shared(tmp_path, searched, "two", kind)
        start(study, tmp_path, "two", PATIENT)
        assert states(study) == [TrialState.RUNNING]


@pytest.mark.parametrize(("kind", "skew"), PLACES)
def test_a_dead_one_of_another_machine_is_found_silent(tmp_path: Path, fast: None, kind: str, skew: float) -> None:
    searched = space(tmp_path)
    with tuner_at_work(tmp_path, searched, "one", kind=kind, skew=skew) as pid:
        kill(pid)
    study = shared(tmp_path, searched, "two", kind)
    seconds = seconds_of(lambda: start(study, tmp_path, "two"))
    assert states(study) == [TrialState.WAITING]
    assert seconds > 6 * BEAT, "not before it could have given a sign of life"


def test_the_same_command_takes_over_at_once_on_the_same_machine(tmp_path: Path) -> None:
    """Its file tells: nobody is waited for, in the seconds of real searches."""
    searched = space(tmp_path)
    with tuner_at_work(tmp_path, searched, "one") as pid:
        study = shared(tmp_path, searched, "one")
        assert seconds_of(lambda: start(study, tmp_path, "one")) < LONG, "another terminal does not wait either"
        assert states(study) == [TrialState.RUNNING]
        kill(pid)
    assert seconds_of(lambda: start(study, tmp_path, "one")) < LONG
    assert states(study) == [TrialState.WAITING]


@pytest.mark.parametrize("locks", ["of each machine alone", "not known"])
def test_in_a_folder_that_machines_share_a_live_tuner_keeps_its_trial_and_a_dead_one_does_not(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    """A lock that is held elsewhere looks free; where locks are not known it looks neither free nor held."""
    searched = space(tmp_path)
    elsewhere = mock.patch.object(tuners, "_this_machine", lambda: "elsewhere since yesterday")
    with elsewhere if locks != "not known" else nullcontext():
        at_work = tuner_at_work(tmp_path, searched, "one")
        pid = at_work.__enter__()
    monkeypatch.setattr(tuners, "is_free", lambda path: locks != "not known")
    monkeypatch.setattr(tuners, "is_held", lambda path: False)
    study = shared(tmp_path, searched, "one")
    try:
        start(study, tmp_path, "one", PATIENT)
        assert states(study) == [TrialState.RUNNING]
        kill(pid)
    finally:
        at_work.__exit__(None, None, None)
    start(study, tmp_path, "one")
    assert states(study) == [TrialState.WAITING]


def test_of_many_trials_each_is_looked_at_right_before_it_is_claimed_and_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the claims of the others take, what somebody else has taken or claimed meanwhile is that one's."""
    monkeypatch.setattr(tuners, "_SETTLE_SECONDS", 0.0)
    study = opened(tmp_path, space(tmp_path))
    storage, ids = study._storage, [study.ask()._trial_id for _ in range(4)]
    for number in ids:
        storage.set_trial_user_attr(number, TUNER, "dead")
    set_attribute = RDBStorage.set_trial_user_attr

    def set_while_another_takes_the_second(self: RDBStorage, trial: int, key: str, value: Any) -> None:
        set_attribute(self, trial, key, value)
        if trial == ids[0]:
            set_attribute(self, ids[1], TUNER, "another")

    with mock.patch.object(RDBStorage, "set_trial_user_attr", set_while_another_takes_the_second):
        taken = tuners._claimed(study, dict.fromkeys(range(4), "dead"), "mine")
        assert next(taken)._trial_id == ids[0]
    assert TAKER not in study.trials[1].user_attrs, "it is another's already"
    storage.set_trial_user_attr(ids[2], TAKER, "a third")
    assert [trial._trial_id for trial in taken] == [ids[3]]


def test_what_one_that_ended_left_is_taken_over_at_once_from_anywhere(tmp_path: Path) -> None:
    searched = space(tmp_path)
    with tuner_at_work(tmp_path, searched, "one"):
        pass
    study = shared(tmp_path, searched, "two")
    assert seconds_of(lambda: start(study, tmp_path, "two")) < LONG
    assert states(study) == [TrialState.WAITING]


def test_a_trial_that_was_just_being_asked_for_waits_for_all_tuners_of_all_machines(tmp_path: Path, fast: None) -> None:
    searched = space(tmp_path)
    study = shared(tmp_path, searched, "two")
    with tuner_at_work(tmp_path, searched, "one") as pid:
        study.ask()  # by one that died before its name was written
        start(study, tmp_path, "two", PATIENT)
        assert states(study) == [TrialState.RUNNING] * 2
        kill(pid)
    start(study, tmp_path, "two")
    assert states(study) == [TrialState.WAITING] * 2


def test_a_stop_waits_for_no_sign_of_life(tmp_path: Path) -> None:
    searched = space(tmp_path)
    with tuner_at_work(tmp_path, searched, "one"):
        study = shared(tmp_path, searched, "two")

        def register() -> None:
            with registered_tuner(study, tmp_path / "two/made-0", shared=True, should_stop=lambda: True):
                pass

        assert seconds_of(register) < LONG
        assert states(study) == [TrialState.RUNNING]


def test_of_two_machines_one_takes_over(tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuners, "_SETTLE_SECONDS", PATIENT)
    searched = space(tmp_path)
    with tuner_at_work(tmp_path, searched, "one") as pid:
        kill(pid)
    set_attribute, taken = RDBStorage.set_trial_user_attr, list[int]()

    def counted(self: RDBStorage, trial: int, key: str, value: Any) -> None:
        if key == TUNER and value is None:
            taken.append(1)
            time.sleep(PATIENT)  # so that the other one comes here too, if it does
        set_attribute(self, trial, key, value)

    monkeypatch.setattr(RDBStorage, "set_trial_user_attr", counted)
    together = threading.Barrier(2)

    def register(machine: str) -> None:
        study = shared(tmp_path, searched, machine)
        together.wait(timeout=60)
        with registered_tuner(study, tmp_path / machine / "made-0", shared=True):
            together.wait(timeout=60)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(register, ["two", "three"]))
    assert (states(shared(tmp_path, searched, "two")), len(taken)) == ([TrialState.WAITING], 1)


def test_one_that_was_asleep_loses_its_trial_and_does_not_end_it(
    tmp_path: Path, fast: None, caplog: pytest.LogCaptureFixture
) -> None:
    searched = space(tmp_path)
    report = TrialReport(1, {"accuracy": 50.0})
    study = shared(tmp_path, searched, "two")
    with tuner_at_work(tmp_path, searched, "one") as pid:
        os.kill(pid, signal.SIGSTOP)
        start(study, tmp_path, "two")
        assert states(study) == [TrialState.WAITING]
    slow = StudyTrials(study, searched, ("accuracy",), Workspace(None, tmp_path), "slow")
    mine = slow.ask()
    study._storage.set_trial_user_attr(mine._trial_id, TUNER, "the new one")
    slow.record_report(mine, report)
    for outcome in (Complete(report, 7, None), Pruned(report), Failed("its process died")):
        assert not slow.record_end(mine, outcome)
    assert (states(study), study.trials[0].intermediate_values) == ([TrialState.RUNNING], {})
    assert "trial 0: another tuner has taken it over" in caplog.text


def test_the_files_of_tuners_do_not_travel(tmp_path: Path, s3: Server) -> None:
    searched = space(tmp_path)
    study = opened(tmp_path, searched)
    mirror = Mirror(Remote(f"s3://{s3.new_bucket()}/runs"), tmp_path)
    with registered_tuner(study, tmp_path / "made-0", shared=False) as name:
        mirror.push("made-0")
        assert (tmp_path / "made-0" / tuners.TUNERS / name).is_file()
    assert list(mirror.remote.entries("made-0")) == ["study.db"]


def test_what_a_dead_tuner_was_at_is_asked_for_again(tmp_path: Path) -> None:
    searched = space(tmp_path)
    study = opened(tmp_path, searched)
    with registered_tuner(study, tmp_path / "made-0", shared=False) as dead:
        at_work = study.ask()
        values = draw_values(at_work, searched)
        at_work.set_user_attr(TUNER, dead)
        with registered_tuner(study, tmp_path / "made-0", shared=False):  # another that lives takes nothing
            assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    with registered_tuner(study, tmp_path / "made-0", shared=False):
        again = study.ask()
        assert (again.number, draw_values(again, searched)) == (at_work.number, values), "no attempt beside it"
    assert ended_trials(study) == []


def test_of_two_tuners_that_start_together_one_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = space(tmp_path)
    study = opened(tmp_path, searched)
    with registered_tuner(study, tmp_path / "made-0", shared=False) as dead:
        trial = study.ask()
        draw_values(trial, searched)
        trial.set_user_attr(TUNER, dead)
    set_attribute, taken = RDBStorage.set_trial_user_attr, list[int]()

    def set_slowly(*given: Any, **named: Any) -> None:
        taken.append(1)
        time.sleep(0.5)
        set_attribute(*given, **named)

    monkeypatch.setattr(RDBStorage, "set_trial_user_attr", set_slowly)

    def register(mine: optuna.Study) -> None:
        with registered_tuner(mine, tmp_path / "made-0", shared=False):
            together.wait(timeout=60)

    together = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(register, [opened(tmp_path, searched) for _ in range(2)]))
    assert ([trial.state for trial in study.trials], len(taken)) == ([TrialState.WAITING], 1)


def test_a_trial_whose_tuner_died_as_it_asked_is_taken_over_by_who_is_alone(tmp_path: Path) -> None:
    """It keeps the values that it was enqueued with; while others are there, it may be one of theirs."""
    point = {"student.model": "hinton800", "data.augment": ["crop"], "method.temperature": 4.0, "schedule.steps": 5}
    searched = space(tmp_path, points=[point])
    study, folder = opened(tmp_path, searched), tmp_path / "made-0"
    enqueue(study, searched)
    with registered_tuner(study, folder, shared=False):
        study.ask()
        with registered_tuner(study, folder, shared=False):
            assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    with registered_tuner(study, folder, shared=False):
        assert draw_values(study.ask(), searched) == point
    other = study.ask()
    other.set_user_attr(TUNER, "on a machine that the study was brought from")
    with registered_tuner(study, folder, shared=False):
        assert [trial.state for trial in study.trials] == [TrialState.WAITING] * 2


def test_a_trial_that_was_being_given_back_is_not_asked_for_again(tmp_path: Path) -> None:
    study, folder = opened(tmp_path, space(tmp_path)), tmp_path / "made-0"
    with registered_tuner(study, folder, shared=False) as dead:
        trial = study.ask()
        trial.set_user_attr(TUNER, dead)
        trial.set_user_attr(TOO_MANY, True)
    with registered_tuner(study, folder, shared=False):
        assert [trial.state for trial in study.trials] == [TrialState.FAIL]
