"""Search a space of recipes: trials on Ray Tune, proposals and records by Optuna. Importable without either.

<store>/searches/<space>-<8 hex of what is searched>/   study.db search.json best.yaml (or best-N.yaml) figures/
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import RaykdError, UsageError
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe
from raykd.search.objectives import default_objective, reported_as
from raykd.search.space import SearchSpace, Values

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
    content["recipe"] = space.experiment_of({}).content_hash
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    return Search(space, objectives, store.absolute() / "searches" / f"{space.name}-{digest}")


def _vary_generators(space: SearchSpace, recipe: Recipe) -> bool:
    """Tell whether trials make images, or learn from images, of generators that differ."""
    if recipe.bank is not None:
        return any(key == "bank" or key.startswith("bank.") for key in space.space)
    return reported_as("agreement", recipe) == "blind/agreement"


def sources(space: SearchSpace) -> list[Experiment]:
    """Return the runs that trials build on, teachers and banks, whatever of their choices they make.

    What a number changes, such as a weight of the generators, is every trial's own.
    """
    chosen: list[Values] = [{}]
    for key, dimension in space.space.items():
        if dimension.choice is not None and not dimension.when:
            chosen += [{key: value} for value in dimension.choice]
    numbers = {key: dimension.samples[0] for key, dimension in space.space.items() if dimension.choice is None}
    runs: dict[str, Experiment] = {}
    for values in chosen:
        kept = _sources_of(space, values)
        for key, number in numbers.items():
            shared = _sources_of(space, {**values, key: number})
            kept = {run_id: run for run_id, run in kept.items() if run_id in shared}
        runs |= kept
    return list(runs.values())


def _sources_of(space: SearchSpace, values: Values) -> dict[str, Experiment]:
    return {run.run_id: run for run in space.experiment_of(values).runs[:-1]}
