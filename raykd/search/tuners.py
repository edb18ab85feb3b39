"""The tuners of a study: each tells that it lives, and at its start takes over what dead ones left at work.

In the folder of the search a tuner holds the lock of a file of its name for as long as it lives; nobody sends the files
to another machine. All tuners of a ``study.db`` are in its folder, so one whose file is free, or missing, is dead.

A database or a journal may have tuners elsewhere, whose files are not here, or are in a folder that several machines
see, whose locks may not reach from one to the other: the file says where its tuner is, and its lock tells of one on
this machine alone. Each tuner counts up in the study every few seconds, and another one is dead if its number stays the
same over many looks of the one that looks. So no two clocks are compared, and a machine that was asleep takes nobody
for dead: it has not looked meanwhile.
"""

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from raykd.files import is_free, is_held, locked, make_folder
from raykd.search.attributes import TAKER, TOO_MANY, TUNER

logger = logging.getLogger(__name__)

TUNERS = ".tuners"
"""The folder of the tuners' files, in the folder of a search: hidden, so that no mirror takes it along."""
_TAKING_OVER = ".taking-over"
"""Name of the file there that is locked while one of them takes over what others left."""
_BEATS = "raykd:tuner:"
"""Begins the names of the study's system attributes in which tuners count up; None stands in one that has ended."""
_BEAT_SECONDS = 10.0
_LOOKS = 7  # without a beat between them, after which a tuner is dead
_SETTLE_SECONDS = 2.0
_POLL_SECONDS = 0.2
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_Left = Mapping[int, str | None]
"""Numbers of trials at work, and the names of their tuners."""


@contextmanager
def registered_tuner(
    study: Study, folder: Path, *, shared: bool, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[str]:
    """Register this process as a tuner of the study, and let the trials that dead tuners left at work wait for one.

    Where trials are at work at tuners that may be elsewhere, that takes until each has given a sign of life, or a
    minute for those who give none.

    Args:
        study: the record of the search.
        folder: of the search, on this machine.
        shared: whether the study is kept elsewhere than in the folder, where tuners without a file here may use it.
        should_stop: whether to wait for no sign of life any more; what is not known to be dead is left alone then.

    Yields:
        The tuner's name.
    """
    tuners = folder / TUNERS
    make_folder(tuners)
    own = tuners / uuid.uuid4().hex
    with locked(own, wait=True), _Pulse(study, own.name) if shared else nullcontext():
        own.write_text(_this_machine() or "", encoding="utf-8")
        if shared:
            left = _find_left(study, tuners, own.name, _dead_anywhere(tuners, _silent_of(study, should_stop)))
            with locked(tuners / _TAKING_OVER, wait=True):
                _take_over(study, _claimed(study, left, own.name))
        else:
            with locked(tuners / _TAKING_OVER, wait=True):  # of two that start together only one finds a trial left
                _take_over(study, _still_left(study, _find_left(study, tuners, own.name, _dead_here(tuners))))
        yield own.name


def _this_machine() -> str | None:
    """Return what names this machine since its last start, None where the system does not tell."""
    try:
        return f"{socket.gethostname()} {_BOOT.read_text().strip()}"
    except OSError:
        return None


class _Pulse:
    """The thread of a tuner that counts up in the study while it lives."""

    def __init__(self, study: Study, name: str) -> None:
        self._storage, self._study_id, self._key = study._storage, study._study_id, f"{_BEATS}{name}"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="raykd-tuner", daemon=True)

    def __enter__(self) -> Self:
        self._write(0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(_BEAT_SECONDS)
        with suppress(Exception):  # the database is gone: then it is found silent
            self._write(None)

    def _beat(self) -> None:
        number = 0
        while not self._ending.wait(_BEAT_SECONDS):
            number += 1
            with suppress(Exception):  # the database does not answer, of which whoever needs it will tell
                self._write(number)

    def _write(self, number: int | None) -> None:
        self._storage.set_study_system_attr(self._study_id, self._key, number)


def _beats(study: Study) -> dict[str, Any]:
    """Return the tuners' latest numbers by their names."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return {name.removeprefix(_BEATS): number for name, number in attributes.items() if name.startswith(_BEATS)}


def _silent_of(study: Study, should_stop: Callable[[], bool]) -> Callable[[set[str]], set[str]]:
    """Return what tells which of some tuners give no sign of life: have ended, or do not count up while looked at."""

    def silent_of(names: set[str]) -> set[str]:
        beats = first = _beats(study)
        ended = {name for name in names if first.get(name, 0) is None}
        silent = names - ended
        if silent:
            logger.info(
                "trials are at work at %d tuner(s) elsewhere: looking for a sign of life, %.0f s at most",
                len(silent), _LOOKS * _BEAT_SECONDS,
            )  # fmt: skip
        for _ in range(_LOOKS):
            if not silent:
                break
            next_look = time.monotonic() + _BEAT_SECONDS
            while (seconds := next_look - time.monotonic()) > 0:
                if should_stop():
                    return ended
                time.sleep(min(_POLL_SECONDS, seconds))
            beats = _beats(study)
            ended |= {name for name in silent if beats.get(name, 0) is None}
            silent = {name for name in silent - ended if beats.get(name) == first.get(name)}
        return ended | silent

    return silent_of


def _dead_here(tuners: Path) -> Callable[[set[str]], set[str]]:
    """Return what tells which of some tuners are dead, if all that live have their files here."""
    return lambda names: {name for name in names if not (tuners / name).exists() or is_free(tuners / name)}


def _dead_anywhere(tuners: Path, silent_of: Callable[[set[str]], set[str]]) -> Callable[[set[str]], set[str]]:
    """Return what tells which of some tuners are dead: those of this machine by their locks, others by their silence.

    A lock that is held elsewhere may look free here, and where locks are not known none tells anything.
    """
    machine = _this_machine()

    def is_here(name: str) -> bool:
        try:
            return machine is not None and (tuners / name).read_text(encoding="utf-8") == machine
        except (OSError, UnicodeDecodeError):
            return False

    def dead_of(names: set[str]) -> set[str]:
        here = set(filter(is_here, names))
        dead = {name for name in here if is_free(tuners / name)}
        alive = {name for name in here - dead if is_held(tuners / name)}
        return dead | silent_of(names - dead - alive)

    return dead_of


def _find_left(study: Study, tuners: Path, own: str, dead_of: Callable[[set[str]], set[str]]) -> _Left:
    """Return the trials at work whose tuners are dead; ``dead_of`` tells which of some are."""
    at_work = {trial.number: trial.user_attrs.get(TUNER) for trial in _running(study)}
    if not at_work:
        return {}
    # Without a tuner's name a trial was just being asked for, by one that died then if nobody else is there.
    names = _all_names(study, tuners) if None in at_work.values() else set(map(str, at_work.values()))
    names -= {own}
    dead = dead_of(names)
    return {
        number: tuner for number, tuner in at_work.items() if (names <= dead if tuner is None else str(tuner) in dead)
    }


def _all_names(study: Study, tuners: Path) -> set[str]:
    """Return the names of all that ever were tuners of a study, as far as it is known here."""
    of_trials = {trial.user_attrs.get(TUNER) for trial in study.get_trials(deepcopy=False)} - {None}
    return {*map(str, of_trials), *_beats(study), *(path.name for path in tuners.glob("[!.]*"))}


def _running(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _still_left(study: Study, left: _Left) -> list[FrozenTrial]:
    """Return those of some trials that are at work as they were."""
    return [trial for trial in _running(study) if _is_left(trial, left)]


def _is_left(trial: FrozenTrial, left: _Left) -> bool:
    at_work = trial.state == TrialState.RUNNING and trial.number in left
    return at_work and trial.user_attrs.get(TUNER) == left[trial.number]


def _claimed(study: Study, left: _Left, own: str) -> Iterator[FrozenTrial]:
    """Yield those of some trials that this tuner may take over, of several on any machines that want to.

    Fischer's mutual exclusion (in Lamport, A fast mutual exclusion algorithm, 1987): each writes its name, waits for
    longer than anybody takes between a look and what it does then, and goes on if its name is still there. Optuna's
    storages have no other way from RUNNING that only one of two can go.

    However many trials there are, each is looked at right before its name is written, and again right before it is
    yielded, to be taken over at once.
    """
    storage, claimed = study._storage, []
    for trial in _still_left(study, left):
        if _is_left(storage.get_trial(trial._trial_id), left):
            storage.set_trial_user_attr(trial._trial_id, TAKER, own)
            claimed.append(trial._trial_id)
    if claimed:
        time.sleep(_SETTLE_SECONDS)
    for trial_id in claimed:
        now = storage.get_trial(trial_id)
        if _is_left(now, left) and now.user_attrs.get(TAKER) == own:
            yield now


def _take_over(study: Study, trials: Iterable[FrozenTrial]) -> None:
    """Let trials that dead tuners were at wait again; their runs go on from checkpoints.

    Each keeps its number, values and reports: the study holds no attempt beside it, and the sampler, which is seeded by
    that number, draws what is not drawn yet, and later trials, as it would have without the death.
    """
    storage = study._storage  # Optuna's own interface has no way back from RUNNING
    for trial in trials:
        if TOO_MANY in trial.user_attrs:  # its tuner died while it gave the trial back
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            continue
        # First, so that whoever asks for it is not taken for the dead one.
        storage.set_trial_user_attr(trial._trial_id, TUNER, None)
        storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        logger.info("trial %d was at work when its tuner ended: it goes on", trial.number)
