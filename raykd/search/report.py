"""The report of a search: plain data, recipes of its best trials, and figures.

The figures are Optuna's own, in HTML: history, importances, parallel coordinates, slices, and the Pareto front where
there are several objectives.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from raykd.files import make_folder, replacing, write_json, write_text
from raykd.recipe.recipe import dump_recipe
from raykd.results import SearchRecord, SearchResult, TrialAtWork, TrialCounts, TrialFailure, TrialRecord, TrialResult
from raykd.search.attributes import CHANGES, REASON, RUN, START, TEST_ACCURACY
from raykd.search.dimension import from_parameter
from raykd.search.objectives import OBJECTIVES
from raykd.search.space import SearchSpace, Values
from raykd.store.mirror import BEST_OF_FRONT, REPORT

logger = logging.getLogger(__name__)

_BEST = 5  # trials shown where there is one objective
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
_MIN_TRIALS = 2  # complete ones, to draw figures of


def build_report(
    study: str,
    trials: Sequence[FrozenTrial],
    best: Sequence[FrozenTrial],
    space: SearchSpace,
    objectives: Sequence[str],
    target: int,
) -> SearchResult:
    """Return the state of a search: its started ``trials`` by their states, and the ``best`` of them, best first."""
    of_state = {name: [trial for trial in trials if trial.state == state] for state, name in _STATES.items()}
    shown = best if len(objectives) > 1 else best[:_BEST]
    return SearchResult(
        study=study,
        recipe=space.recipe,
        objectives={name: OBJECTIVES[name] for name in objectives},
        trials=TrialCounts(target, **{name: len(found) for name, found in of_state.items()}),
        at_work=[_at_work(trial, space) for trial in of_state["running"]],
        best=[_describe(trial, space, objectives) for trial in shown],
        reasons=[TrialFailure(trial.number, trial.user_attrs.get(REASON, "not told")) for trial in of_state["failed"]],
    )


def build_record(
    study: Study, trials: Sequence[FrozenTrial], space: SearchSpace, *, importances: bool = True
) -> SearchRecord:
    """Return all of a search's started ``trials``, and how much each field has decided.

    Without ``importances``, which take seconds, nothing is said of the latter.
    """
    objectives = list(study.metric_names or ())
    explained = objectives if importances else []
    return SearchRecord(
        [_record(trial, space, objectives) for trial in trials],
        [key for key, dimension in space.space.items() if dimension.loguniform is not None],
        {name: found for index, name in enumerate(explained) if (found := _importances(study, index))},
    )


def _importances(study: Study, index: int) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return optuna.importance.get_param_importances(
                study, evaluator=FanovaImportanceEvaluator(seed=0), target=partial(_value, index)
            )
        except (ValueError, RuntimeError):  # they want two trials or more, of different values
            return {}


def read_values(trial: FrozenTrial, space: SearchSpace) -> Values:
    """Return a trial's values as the recipe takes them, from the parameters that the study stores."""
    return {key: from_parameter(space.space[key], parameter) for key, parameter in trial.params.items()}


def write_search(report: SearchResult, space: SearchSpace, folder: Path) -> None:
    """Write search.json, and the recipes of the best trials: best.yaml, or best-N.yaml for each of a Pareto front.

    The recipes hold out no images: those that the search held out are learnt from, too.
    """
    make_folder(folder)
    write_json(folder / REPORT, report.to_dict())
    front = len(report.objectives) > 1
    names = {one.trial: f"best-{one.trial}.yaml" if front else "best.yaml" for one in report.best}
    for old in folder.glob(BEST_OF_FRONT):
        if old.name not in names.values():
            old.unlink(missing_ok=True)  # several tuners of one study may tidy here
    for one in report.best if front else report.best[:1]:
        values = one.parameters if one.start is None else one.start  # of a member whose numbers changed on the way
        recipe = space.make_recipe({**values, **({"data.holdout": 0.0} if space.holds_out else {})}, one.changes or ())
        told = ", ".join(f"{name} {value:.6g}" for name, value in one.values.items())
        write_text(
            folder / names[one.trial],
            f"# Trial {one.trial} of the search {report.study}: {told}.\n" + dump_recipe(recipe),
        )


def write_figures(study: Study, folder: Path) -> list[str]:
    """Write the figures that the study has enough trials for into ``folder``; return their names."""
    try:
        from optuna import visualization

        if not visualization.is_available():
            raise ImportError("plotly")
    except ImportError:
        logger.info("no figures without plotly: pip install plotly")
        return []
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _MIN_TRIALS:
        return []
    make_folder(folder)
    names = study.metric_names or [str(index) for index in range(len(study.directions))]
    figures: dict[str, Callable[[], Any]] = {}
    if len(names) > 1:
        figures["pareto"] = partial(visualization.plot_pareto_front, study, target_names=names)
    for index, name in enumerate(names):
        by: dict[str, Any] = {"target_name": name}
        if len(names) > 1:
            by["target"] = partial(_value, index)
        end = f"_{name}" if len(names) > 1 else ""
        figures[f"history{end}"] = partial(visualization.plot_optimization_history, study, **by)
        figures[f"importances{end}"] = partial(visualization.plot_param_importances, study, **by)
        figures[f"parallel{end}"] = partial(visualization.plot_parallel_coordinate, study, **by)
        figures[f"slice{end}"] = partial(visualization.plot_slice, study, **by)
    written = []
    for name, draw in figures.items():
        try:
            with warnings.catch_warnings(), replacing(folder / f"{name}.html") as staging:
                warnings.simplefilter("ignore")
                draw().write_html(staging, include_plotlyjs="directory")
        except (ValueError, RuntimeError) as error:  # importances want two trials or more, of different values
            logger.info("no figure %r yet: %s", name, error)
        else:
            written.append(name)
    return written


def _value(index: int, trial: FrozenTrial) -> float:
    return float(trial.values[index])


def _at_work(trial: FrozenTrial, space: SearchSpace) -> TrialAtWork:
    value = trial.intermediate_values[trial.last_step] if trial.last_step is not None else None
    return TrialAtWork(trial.number, read_values(trial, space), value)


def _record(trial: FrozenTrial, space: SearchSpace, objectives: Sequence[str]) -> TrialRecord:
    values = trial.values if trial.state == TrialState.COMPLETE else None
    if trial.state == TrialState.PRUNED and trial.last_step is not None:
        values = [trial.intermediate_values[trial.last_step]]
    attributes = trial.user_attrs
    return TrialRecord(
        trial.number,
        _STATES[trial.state],
        None if values is None else dict(zip(objectives, values, strict=False)),
        read_values(trial, space),
        run=attributes.get(RUN),
        test_top1=attributes.get(TEST_ACCURACY),
    )


def _describe(trial: FrozenTrial, space: SearchSpace, objectives: Sequence[str]) -> TrialResult:
    attributes = trial.user_attrs
    return TrialResult(
        trial.number,
        values=dict(zip(objectives, trial.values, strict=True)),
        parameters=read_values(trial, space),
        run=attributes.get(RUN),
        test_top1=attributes.get(TEST_ACCURACY),
        start=attributes.get(START),
        changes=attributes.get(CHANGES),
    )
