"""Search a space of recipes: trials on Ray Tune, proposals and records by Optuna. Importable without either.

<store>/searches/<space>-<8 hex of what is searched>/   study.db search.json best.yaml (or best-N.yaml) figures/
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.cluster.config import Cluster
from raykd.cluster.environment import prepare_environment
from raykd.cluster.train import fitting_workers, needs_ray
from raykd.engine.build import check
from raykd.engine.roots import Roots, Where, roots_at
from raykd.errors import RaykdError, UsageError
from raykd.objectives import default_objective, reported_as
from raykd.parallel import World
from raykd.recipe import Recipe, entailed_runs
from raykd.search_space import SearchSpace, Values

_HOLDOUT = 0.1  # of what is learnt from, where an objective is measured on it
_REFEREE = 1000  # images


@dataclass(frozen=True)
class Search:
    """What is searched, and where its record lies."""

    space: SearchSpace
    objectives: tuple[str, ...]
    folder: Path


class SearchStopped(RaykdError):
    """The search was asked to stop; the trials at work have saved first."""

    exit_code = 130

    def __init__(self, finished: int, trials: int) -> None:
        """Say how far it came."""
        super().__init__(f"stopped with {finished} of {trials} trials finished; the same command continues")


def plan_search(space: SearchSpace, store: Path) -> Search:
    """Say what will be searched: settle the objectives, and on which images they are measured, the same for all trials.

    Agreement on images of a student's own generator says nothing where trials differ in their generators: one that
    makes few and simple images is agreed on best. There a referee judges, the generators of the recipe as it stands,
    of another seed.

    Raises:
        UsageError: if runs of the recipe, or of the second stage's, do not measure an objective.
    """
    recipe = space.recipe_of({})
    objectives = space.objectives or (default_objective(recipe),)
    reported = [reported_as(name, recipe) for name in objectives]
    if space.scheduler.name != "none" and reported[0] is None:
        raise UsageError(
            f"scheduler {space.scheduler.name!r} compares trials on their way, and objective {objectives[0]!r} is told "
            "at their end: take agreement or accuracy, or scheduler.name none"
        )
    if "agreement" in objectives and recipe.referee is None and _vary_generators(space, recipe):
        referee = {"referee": space.generators_of({}, images=_REFEREE, apart=1).model_dump(exclude_defaults=True)}
        space = space.model_copy(update={"overrides": {**space.overrides, **referee}})
    elif any(name and name.startswith("holdout/") for name in reported) and not recipe.data.holdout:
        space = space.model_copy(update={"overrides": {**space.overrides, "data.holdout": _HOLDOUT}})
    if space.then is not None:
        try:
            plan_search(space.second({}), store)
        except UsageError as error:
            raise UsageError(f"then: {error}") from None
    content = space.model_dump(
        mode="json", exclude={"name", "trials", "keep", "points", "earlier", "sampler", "scheduler", "images", "then"}
    )
    if space.scheduler.name == "pbt":  # its trials are parts of trainings, which no other sampler may learn from
        content["population"] = [space.trials, space.scheduler.interval]
    if space.seeds == 1:
        del content["seeds"]
    content["objectives"] = objectives
    content["recipe"] = space.recipe_of({}).content_hash
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    return Search(space, objectives, store.absolute() / "searches" / f"{space.name}-{digest}")


def _vary_generators(space: SearchSpace, recipe: Recipe) -> bool:
    """Tell whether trials make images, or learn from images, of generators that differ."""
    if recipe.bank is not None:
        return any(key == "bank" or key.startswith("bank.") for key in space.space)
    return reported_as("agreement", recipe) == "blind/agreement"


def search(
    planned: Search,
    cluster: Cluster,
    *,
    store: Where,
    data_root: Where | None,
    should_stop: Callable[[], bool],
    show: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Run trials until the space has as many as it wants; return and write the report of the search.

    What the study holds is not run again, and a trial that a killed tuner left is continued from its checkpoint.
    ``show`` is given the report as it grows.

    Raises:
        SearchStopped: once ``should_stop`` said so and the trials at work have saved.
        UsageError: for a slip in the space, of either stage, or in any recipe it makes, before anything starts.
        SetupError: without Ray or Optuna, an answering address, room for one trial, or the study's storage; or once
            a disk or a store has failed a trial, which goes on when that is mended.
    """
    roots = roots_at(store, data_root)
    then = None if planned.space.then is None else plan_search(planned.space.second({}), roots.store)
    for stage in (planned, then):
        if stage is not None:
            _check_stage(stage.space.recipe_of({}), cluster, roots)
    prepare_environment(cluster)
    with needs_ray(cluster):
        from raykd.cluster.study import earlier_trials
        from raykd.cluster.tuner import Tuning
    if then is not None:
        earlier_trials(then.space, then.objectives)
    report = Tuning(planned, cluster, roots, should_stop, show).run()
    if then is None or not report["best"]:
        return report
    second = plan_search(planned.space.second(report["best"][0]["parameters"]), roots.store)
    return {**Tuning(second, cluster, roots, should_stop, show).run(), "first": report}


def _check_stage(recipe: Recipe, cluster: Cluster, roots: Roots) -> None:
    fitting_workers(recipe, cluster)
    if cluster.address == "local":
        for run in entailed_runs(recipe):
            check(run, World.alone(), roots)


def sources(space: SearchSpace) -> list[Recipe]:
    """Return the runs that trials build on, teachers and banks, whatever of their choices they make.

    What a number changes, such as a weight of the generators, is every trial's own.
    """
    chosen: list[Values] = [{}]
    for key, dimension in space.space.items():
        if dimension.choice is not None and not dimension.when:
            chosen += [{key: value} for value in dimension.choice]
    numbers = {key: dimension.samples[0] for key, dimension in space.space.items() if dimension.choice is None}
    runs: dict[str, Recipe] = {}
    for values in chosen:
        kept = _sources_of(space, values)
        for key, number in numbers.items():
            shared = _sources_of(space, {**values, key: number})
            kept = {run_id: run for run_id, run in kept.items() if run_id in shared}
        runs |= kept
    return list(runs.values())


def _sources_of(space: SearchSpace, values: Values) -> dict[str, Recipe]:
    return {run.run_id: run for run in entailed_runs(space.recipe_of(values))[:-1]}
