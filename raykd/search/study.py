"""The record of a search: an Optuna study, which any of Optuna's tools opens. Imports no Ray.

A trial of the study is a run of the store: its parameters make the recipe, whose run id names the directory. So what a
killed tuner leaves behind is complete: a trial that was at work is asked for once more and its run goes on.
"""

import fcntl
import logging
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from raykd.errors import SetupError, UsageError, masked
from raykd.search.dimension import Dimension, parameter_of, value_of
from raykd.search.grid import same_key, target_of, trials_wanted
from raykd.search.objectives import OBJECTIVES
from raykd.search.samplers import SeededByTrial
from raykd.search.space import SearchSpace, Values
from raykd.search.study_storage import open_storage

logger = logging.getLogger(__name__)

RUN, TUNER, REASON, REPEATS, TOO_MANY, EARLIER = "run", "tuner", "reason", "repeats", "too many", "earlier"
GENERATION, FOUND = "generation", "found"
"""User attributes of trials: run id, which process works at it, why it failed, which earlier trial it goes on with,
that another tuner of the same study had asked for the last one, of which earlier search it was, of a population the
generation, and which of its runs were finished before the search asked for them."""
_NOT_OURS = (TOO_MANY, EARLIER)


def open_study(space: SearchSpace, objectives: tuple[str, ...], folder: Path, url: str | None) -> Study:
    """Create the study of a space, or open it again.

    Args:
        space: what is searched.
        objectives: what is wanted, by name.
        folder: of the search; ``study.db`` is there unless ``url`` says otherwise.
        url: ``journal:FILE``, or any URL of SQLAlchemy's that Optuna takes.

    Raises:
        SetupError: if the storage cannot be opened, or holds a study of other objectives.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [OBJECTIVES[name] for name in objectives]
    try:
        storage = open_storage(folder, url)
        study = optuna.create_study(storage=storage, study_name=folder.name, directions=directions, load_if_exists=True)
        study.sampler = SeededByTrial(space)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(objectives))
        study.set_user_attr("recipe", space.recipe)
    except Exception as error:  # of SQLAlchemy, of a database's driver, of a file system: all mean the same to a user
        where = url or folder / "study.db"
        raise SetupError(f"the study cannot be opened at {masked(str(where))}: {_told(error)}") from None
    return study


@contextmanager
def working(study: Study, folder: Path) -> Iterator[str]:
    """Name this process as a tuner of the study for as long as it lives, and take over what dead ones left.

    Tuners that share a database but no folder are left alone.
    """
    tuners = folder / "tuners"
    tuners.mkdir(parents=True, exist_ok=True)
    own = tuners / uuid.uuid4().hex
    with own.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _take_over(study, tuners)
        yield own.name


def propose(trial: Trial, space: SearchSpace) -> Values:
    """Draw a trial's values from the space, in its order."""

    def draw(key: str, dimension: Dimension) -> Any:
        if dimension.integer is not None:
            return trial.suggest_int(key, *dimension.integer)
        if dimension.choice is None:
            low, high = dimension.bounds or (0.0, 1.0)
            return trial.suggest_float(key, low, high, log=dimension.loguniform is not None)
        return value_of(dimension, trial.suggest_categorical(key, [parameter_of(value) for value in dimension.choice]))

    return space.drawn(draw)


def enqueue(study: Study, space: SearchSpace) -> None:
    """Ask for the space's points, and for a grid if that is how it is searched, once in a study's life.

    A population has them as its first members.
    """
    if space.scheduler.name == "pbt":
        return
    wanted = trials_wanted(space)
    if space.sampler.name == "grid" and (left_out := len(wanted) - target_of(space)):
        logger.warning(
            "trials is %d, and grid and points are %d: %d of them are left out", space.trials, len(wanted), left_out
        )
        wanted = wanted[: space.trials]
    asked = {same_key(trial.system_attrs.get("fixed_params", {})) for trial in study.get_trials(deepcopy=False)}
    for values in wanted:
        if same_key(values) not in asked:
            study.enqueue_trial({key: parameter_of(value) for key, value in values.items()})


def learn_from_earlier(study: Study, space: SearchSpace) -> int:
    """Show the sampler what an earlier search found, once in a study's life; return of how many trials.

    Raises:
        UsageError: if there is none that can be read, or it wanted something else.
    """
    if space.earlier is None or any(EARLIER in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        return 0
    known = earlier_trials(space, tuple(study.metric_names or ()))
    for trial in known:
        trial.set_user_attr(EARLIER, Path(space.earlier).resolve().name)
        study.add_trial(trial)
    return len(known)


def earlier_trials(space: SearchSpace, objectives: tuple[str, ...]) -> list[FrozenTrial]:
    """Return what an earlier search found that lies in this space.

    Raises:
        UsageError: if there is none that can be read, or it wanted something else.
    """
    if space.earlier is None:
        return []
    folder = Path(space.earlier)
    file = folder / "study.db"
    if not file.is_file() and (folder / "search.json").is_file():
        raise UsageError(
            f"the search in {folder} kept its study in a database or a journal, and 'earlier' reads study.db only: "
            f"copy it with optuna.copy_study(..., to_storage='sqlite:///{file}')"
        )
    if not file.is_file():
        raise UsageError(
            f"no study.db in {folder}: 'earlier' is the folder that an earlier search told as its directory"
        )
    try:
        old = optuna.load_study(study_name=None, storage=f"sqlite:///{file}")  # the only one; the folder may be renamed
        wanted, trials = old.metric_names, best_trials(old) if len(old.directions) == 1 else old.trials
    except Exception as error:  # of SQLAlchemy, of SQLite, of Optuna: a file that no search has left, or a damaged one
        raise UsageError(f"{file} cannot be read as the study of a search: {_told(error)}") from None
    if wanted != list(objectives):
        raise UsageError(f"the search in {folder} wanted {wanted}, this one wants {list(objectives)}")
    found = []
    for trial in trials:
        if trial.state != TrialState.COMPLETE or trial.params.keys() - space.space.keys():
            continue
        distributions = {key: _distribution(space.space[key]) for key in trial.params}
        try:
            found.append(create_trial(params=trial.params, distributions=distributions, values=trial.values))
        except ValueError:  # it lies outside of this space
            continue
    return found


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choice is not None:
        return CategoricalDistribution([parameter_of(value) for value in dimension.choice])
    if dimension.integer is not None:
        return IntDistribution(*dimension.integer)
    low, high = dimension.bounds or (0.0, 1.0)
    return FloatDistribution(low, high, log=dimension.loguniform is not None)


def ours(study: Study) -> list[FrozenTrial]:
    """Return the trials of this search, without those repeated, too many, or of an earlier search."""
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(REPEATS) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.number not in repeated and not any(name in trial.user_attrs for name in _NOT_OURS)
    ]


def counted(study: Study) -> list[FrozenTrial]:
    """Return the trials of this search that are at work or have ended."""
    return [trial for trial in ours(study) if trial.state != TrialState.WAITING]


def finished(study: Study) -> list[FrozenTrial]:
    """Return the trials of them that have ended: done, ended early or failed."""
    return [trial for trial in counted(study) if trial.state.is_finished()]


def best_trials(study: Study) -> list[FrozenTrial]:
    """Return the best trials that ran to their end, the best first; with several objectives the Pareto front.

    Of a population they are those of its last generation.
    """
    done = [trial for trial in counted(study) if trial.state == TrialState.COMPLETE]
    latest = max((trial.user_attrs.get(GENERATION, 0) for trial in done), default=0)
    done = [trial for trial in done if trial.user_attrs.get(GENERATION, 0) == latest]
    if len(study.directions) > 1:
        numbers = {trial.number for trial in done}
        return [trial for trial in study.best_trials if trial.number in numbers] if done else []
    down = study.direction == optuna.study.StudyDirection.MINIMIZE
    return sorted(done, key=lambda trial: (trial.values[0] if down else -trial.values[0], trial.number))


def _take_over(study: Study, tuners: Path) -> None:
    """Ask once more for what dead tuners of this folder were at."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(tuners / str(trial.user_attrs.get(TUNER))):
            known = {name: value for name, value in trial.user_attrs.items() if name not in (TUNER, REPEATS)}
            study.enqueue_trial(trial.params, user_attrs={**known, REPEATS: trial.number})
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            logger.info("trial %d was at work when its tuner ended: it goes on", trial.number)


def _is_dead(lock_of_tuner: Path) -> bool:
    """Tell whether the process that held a lock, in this folder, is gone."""
    try:
        with lock_of_tuner.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it lives, or works in another folder
        return False
    return True


def _told(error: Exception) -> str:
    """Return the first line of an error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
