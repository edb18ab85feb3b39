"""The record of a search: an Optuna study, which any of Optuna's tools opens. Imports no Ray.

A trial of the study is a run of the store: its parameters make the recipe, whose run id names the directory. So what a
killed tuner leaves behind is complete: a trial that was at work is asked for once more and its run goes on.
"""

import fcntl
import itertools
import logging
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from raykd.cluster.samplers import SeededByTrial
from raykd.cluster.study_storage import open_storage, without_secret
from raykd.errors import SetupError, UsageError
from raykd.objectives import OBJECTIVES
from raykd.search_dimension import Dimension, parameter_of, value_of
from raykd.search_space import SearchSpace, Values

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
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SetupError(f"the study cannot be opened at {without_secret(str(where))}: {told[:300]}") from None
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
    wanted = [dict(point) for point in space.points if space.scheduler.name != "pbt"]
    if space.sampler.name == "grid":
        wanted += grid_of(space)
    asked = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(deepcopy=False)]
    for values in wanted:
        parameters = {key: parameter_of(value) for key, value in values.items()}
        if parameters not in asked:
            study.enqueue_trial(parameters)


def learn_from_earlier(study: Study, space: SearchSpace) -> int:
    """Show the sampler what an earlier search found, once in a study's life; return of how many trials.

    Raises:
        UsageError: if there is none, or it wanted something else.
    """
    if space.earlier is None or any(EARLIER in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        return 0
    folder = Path(space.earlier)
    if not (folder / "study.db").is_file():
        raise UsageError(
            f"no study.db in {folder}: 'earlier' is the folder that an earlier search told as its directory"
        )
    old = optuna.load_study(study_name=folder.resolve().name, storage=f"sqlite:///{folder / 'study.db'}")
    if (old.directions, old.metric_names) != (study.directions, study.metric_names):
        raise UsageError(f"the search in {folder} wanted {old.metric_names}, this one wants {study.metric_names}")
    learnt = 0
    for trial in best_trials(old) if len(old.directions) == 1 else old.trials:
        if trial.state != TrialState.COMPLETE or trial.params.keys() - space.space.keys():
            continue
        distributions = {key: _distribution(space.space[key]) for key in trial.params}
        try:
            known = create_trial(params=trial.params, distributions=distributions, values=trial.values)
        except ValueError:  # it lies outside of this space
            continue
        known.set_user_attr(EARLIER, folder.resolve().name)
        study.add_trial(known)
        learnt += 1
    return learnt


def grid_of(space: SearchSpace) -> list[Values]:
    """Return every combination of the choices and of evenly spaced numbers, without what does not apply."""
    found: list[Values] = []
    for values in itertools.product(*(_steps(space, dimension) for dimension in space.space.values())):
        every = dict(zip(space.space, values, strict=True))
        applying = space.drawn(partial(_given, every))
        if applying not in found:
            found.append(applying)
    return found


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choice is not None:
        return CategoricalDistribution([parameter_of(value) for value in dimension.choice])
    if dimension.integer is not None:
        return IntDistribution(*dimension.integer)
    low, high = dimension.bounds or (0.0, 1.0)
    return FloatDistribution(low, high, log=dimension.loguniform is not None)


def _given(values: Values, key: str, dimension: Dimension) -> Any:
    return values[key]


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


def _steps(space: SearchSpace, dimension: Dimension) -> list[Any]:
    if dimension.choice is not None:
        return list(dimension.choice)
    count = space.sampler.grid
    if dimension.integer is not None:
        first, last = dimension.integer
        return sorted({round(first + (last - first) * step / (count - 1)) for step in range(count)})
    low, high = dimension.bounds or (0.0, 1.0)
    if dimension.loguniform is not None:
        return [low * (high / low) ** (step / (count - 1)) for step in range(count - 1)] + [high]
    return [low + (high - low) * step / (count - 1) for step in range(count)]
