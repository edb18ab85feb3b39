"""The record of a search: an Optuna study, which any of Optuna's tools opens. Imports no Ray.

A trial of the study is a run of the store: its parameters make the recipe, whose run id names the directory. So what a
killed tuner leaves behind is complete: a trial that was at work is asked for once more and its run goes on.
"""

import hashlib
import json
import logging
import sqlite3
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from raykd.errors import CorruptError, SetupError, UsageError, masked
from raykd.files import damaged, describe, is_file, read_json
from raykd.search.attributes import EARLIER, GENERATION, REPEATS, SUM, SUMMED, TOO_MANY
from raykd.search.dimension import Dimension, from_parameter, to_parameter
from raykd.search.grid import canonical_key, count_trials, list_given
from raykd.search.objectives import OBJECTIVES
from raykd.search.samplers import SeededByTrial
from raykd.search.space import SearchSpace, Values
from raykd.search.study_storage import STUDY, open_storage
from raykd.store.mirror import REPORT

logger = logging.getLogger(__name__)

_GIVEN = "fixed_params"
"""System attribute in which Optuna keeps the values that a trial was enqueued with."""
_NOT_OF_THIS_SEARCH = (TOO_MANY, EARLIER)
_OF_DISKS = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM,
)  # fmt: skip
_RESTORE = "restore it from a backup, or move the search's folder away: the runs that its trials made are kept and read"


def open_study(space: SearchSpace, objectives: tuple[str, ...], folder: Path, url: str | None) -> Study:
    """Create the study of a space, or open it again.

    Args:
        space: what is searched.
        objectives: names of the objectives.
        folder: folder of the search; ``study.db`` is there unless ``url`` says otherwise.
        url: ``journal:FILE``, or any URL of SQLAlchemy's that Optuna takes.

    Raises:
        SetupError: if the storage cannot be opened, or holds a study of other objectives.
        CorruptError: if ``study.db`` is damaged.
    """
    file = folder / STUDY if url is None else None
    readable = file is not None and is_file(file) and _check_file(file)
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
        if file is not None and readable and _is_of_content(error):
            raise damaged(file, describe(error), _RESTORE) from None
        where, reason = url or folder / STUDY, masked(describe(error.__cause__ or error))
        raise SetupError(f"the study cannot be opened at {masked(str(where))}: {reason}") from None
    if file is not None:
        _check_record(study, folder)
    return study


def _check_file(file: Path) -> bool:
    """Refuse a file that is no database, or a damaged one; return whether it can be opened."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=60)) as database:
            (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError:  # locked, or not to be opened: who opens it next says why
        return False
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        verdict = describe(error)
    if verdict != "ok":
        raise damaged(file, verdict.splitlines()[-1], _RESTORE)
    return True


def _is_of_content(error: Exception) -> bool:
    """Return whether an error is of what a database holds, and not of its disk or of a study of other objectives."""
    code = getattr(getattr(error.__cause__ or error, "orig", None), "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    is_other_study = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
    return code not in _OF_DISKS and not is_other_study


def _check_record(study: Study, folder: Path) -> None:
    """Refuse a study whose trials are not as they were recorded, or that lacks some that the search's report counts."""
    file = folder / STUDY
    try:
        ended = ended_trials(study)
        changed = [trial.number for trial in ended if not _is_as_recorded(trial)]
    except Exception as error:  # of Optuna, of JSON: whatever such content makes of them
        raise damaged(file, describe(error), _RESTORE) from None
    if changed:
        raise damaged(file, f"trial {changed[0]} differs from its checksum", _RESTORE)
    try:
        report = read_json(folder / REPORT, "it is written again")
        reported = sum(int(report["trials"][state]) for state in ("complete", "pruned", "failed"))
    except (FileNotFoundError, CorruptError, KeyError, TypeError, ValueError):
        return
    if len(ended) < reported:
        what = f"it holds {len(ended)} trials that have ended, {REPORT} tells of {reported}"
        raise damaged(file, what, _RESTORE)


def draw_values(trial: Trial, space: SearchSpace) -> Values:
    """Have the study's sampler draw a trial's values, in the order of the space."""

    def draw_field(key: str, dimension: Dimension) -> Any:
        if dimension.integer is not None:
            return trial.suggest_int(key, *dimension.integer)
        if dimension.choice is None:
            low, high = dimension.bounds or (0.0, 1.0)
            return trial.suggest_float(key, low, high, log=dimension.loguniform is not None)
        parameter = trial.suggest_categorical(key, [to_parameter(value) for value in dimension.choice])
        return from_parameter(dimension, parameter)

    return space.draw(draw_field)


def end_trial(study: Study, trial: Trial, values: Sequence[float] | None) -> None:
    """Record what a trial has reached, or by None that it is pruned, with the sum of what the study holds of it."""
    trial.set_user_attr(SUM, _sum_of(study.get_trials(deepcopy=False)[trial.number], values))
    study.tell(trial, values, TrialState.PRUNED if values is None else TrialState.COMPLETE)


def _is_as_recorded(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:  # whatever its tuner was about to record when it died
        return True
    recorded = trial.user_attrs.get(SUM)  # of no trial of earlier releases
    values = trial.values if trial.state == TrialState.COMPLETE else None  # Optuna gives a pruned one its last report
    return recorded in (None, _sum_of(trial, values))


def _sum_of(trial: FrozenTrial, values: Sequence[float] | None) -> str:
    attributes = {name: trial.user_attrs.get(name) for name in SUMMED}
    content = [trial.params, values and [*map(float, values)], sorted(trial.intermediate_values.items()), attributes]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def enqueue(study: Study, space: SearchSpace) -> None:
    """Enqueue the space's points, and its grid if that is how it is searched, once in a study's life."""
    given = list_given(space)
    if space.sampler.name == "grid" and (left_out := len(given) - count_trials(space)):
        logger.warning(
            "trials is %d, and grid and points are %d: %d of them are left out", space.trials, len(given), left_out
        )
        given = given[: space.trials]
    enqueued = {canonical_key(trial.system_attrs.get(_GIVEN, {})) for trial in study.get_trials(deepcopy=False)}
    for values in given:
        if canonical_key(values) not in enqueued:
            study.enqueue_trial({key: to_parameter(value) for key, value in values.items()})


def learn_from_earlier(study: Study, space: SearchSpace) -> int:
    """Add the trials of an earlier search, for the sampler to learn from, once in a study's life; return their number.

    Raises:
        UsageError: if there is no study that can be read, or its objectives are others.
    """
    if space.earlier is None or any(EARLIER in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        return 0
    trials = load_earlier_trials(space, tuple(study.metric_names or ()))
    for trial in trials:
        trial.set_user_attr(EARLIER, Path(space.earlier).resolve().name)
        study.add_trial(trial)
    return len(trials)


def load_earlier_trials(space: SearchSpace, objectives: tuple[str, ...]) -> list[FrozenTrial]:
    """Return the complete trials of the earlier search that lie in this space.

    Raises:
        UsageError: if there is no study that can be read, or its objectives are others.
    """
    if space.earlier is None:
        return []
    folder = Path(space.earlier)
    file = folder / STUDY
    if not file.is_file() and (folder / REPORT).is_file():
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
        old_objectives = old.metric_names
        trials = best_trials(old) if len(old.directions) == 1 else old.trials
    except Exception as error:  # of SQLAlchemy, of SQLite, of Optuna: a file that no search has left, or a damaged one
        raise UsageError(f"{file} cannot be read as the study of a search: {describe(error)}") from None
    if old_objectives != list(objectives):
        raise UsageError(f"the search in {folder} wanted {old_objectives}, this one wants {list(objectives)}")
    usable = []
    for trial in trials:
        if trial.state != TrialState.COMPLETE or trial.params.keys() - space.space.keys():
            continue
        distributions = {key: _distribution(space.space[key]) for key in trial.params}
        try:
            usable.append(create_trial(params=trial.params, distributions=distributions, values=trial.values))
        except ValueError:  # it lies outside of this space
            continue
    return usable


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choice is not None:
        return CategoricalDistribution([to_parameter(value) for value in dimension.choice])
    if dimension.integer is not None:
        return IntDistribution(*dimension.integer)
    low, high = dimension.bounds or (0.0, 1.0)
    return FloatDistribution(low, high, log=dimension.loguniform is not None)


def own_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials of this search, without those given back, repeated by others, or of an earlier search."""
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(REPEATS) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.number not in repeated and not any(name in trial.user_attrs for name in _NOT_OF_THIS_SEARCH)
    ]


def started_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials of this search that are at work or have ended."""
    return [trial for trial in own_trials(study) if trial.state != TrialState.WAITING]


def ended_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials of this search that have ended: complete, pruned or failed."""
    return [trial for trial in started_trials(study) if trial.state.is_finished()]


def best_trials(study: Study) -> list[FrozenTrial]:
    """Return the complete trials, the best first; with several objectives the Pareto front only.

    Of a population they are those of its last generation: an earlier part of a training is no student yet.
    """
    complete = [trial for trial in started_trials(study) if trial.state == TrialState.COMPLETE]
    latest = max((trial.user_attrs.get(GENERATION, 0) for trial in complete), default=0)
    complete = [trial for trial in complete if trial.user_attrs.get(GENERATION, 0) == latest]
    if len(study.directions) > 1:
        numbers = {trial.number for trial in complete}
        return [trial for trial in study.best_trials if trial.number in numbers] if complete else []
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    return sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))
