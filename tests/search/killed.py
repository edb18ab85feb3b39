"""A search without Ray, in processes that are killed between any two writes into their study."""

import os
import signal
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

from optuna.storages import JournalStorage, RDBStorage
from optuna.trial import Trial

from raykd.search.proposer import make_proposer
from raykd.search.space import SearchSpace
from raykd.search.trials import Complete, Proposal, Pruned, StudyTrials, TrialReport
from raykd.search.tuners import registered_tuner
from raykd.store.workspace import Workspace
from tests.search.made_study import opened

WRITES = {
    RDBStorage: ("_create_new_trial", "_set_trial_param", "set_trial_user_attr", "set_trial_system_attr",
                 "set_trial_state_values", "set_trial_intermediate_value"),
    JournalStorage: ("create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_system_attr",
                     "set_trial_state_values", "set_trial_intermediate_value"),
}  # fmt: skip


def search(folder: Path, searched: SearchSpace, url: str | None = None) -> None:
    """Search to the end, one trial after the other; a third of the trials is pruned."""
    study = opened(folder, searched, url=url)
    with registered_tuner(study, folder / "made-0", shared=url is not None) as tuner:
        trials = StudyTrials(study, searched, ("accuracy",), Workspace(None, folder / "runs"), tuner)
        proposer = make_proposer(trials)
        while isinstance(proposal := proposer.next(), Proposal):
            trial = proposal.trial
            trials.record_report(trial, TrialReport(1, {"accuracy": _score(trial) / 2}))
            last = TrialReport(2, {"accuracy": _score(trial)})
            proposer.ended(trial, Pruned(last) if trial.number % 3 == 2 else Complete(last, 7, None))


def search_with_deaths(folder: Path, searched: SearchSpace, url: str | None, every: int) -> int:
    """Search in one process after the other, each killed before its write number ``every``; return how many died."""
    for deaths in range(100):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _search_until(folder, searched, url, every)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return deaths
    raise AssertionError("it does not come to an end")


def _search_until(folder: Path, searched: SearchSpace, url: str | None, every: int) -> None:
    written = 0

    def deadly(original: Any) -> Any:
        def write(*given: Any, **named: Any) -> Any:
            nonlocal written
            written += 1
            if written == every:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **named)

        return write

    storage = RDBStorage if url is None else JournalStorage
    with mock.patch.multiple(storage, **{name: deadly(getattr(storage, name)) for name in WRITES[storage]}):
        search(folder, searched, url)


def _score(trial: Trial) -> float:
    """Return a figure that depends on a trial's values and that samplers can learn from."""
    numbers = [value for value in trial.params.values() if isinstance(value, float | int)]
    return 100 - sum((number % 7) for number in numbers)
