"""Search a space of recipes: trials on Ray Tune, proposals and records by Optuna. Importable without either.

<store>/searches/<space>-<8 hex of what is searched>/   study.db search.json best.yaml figures/
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
from raykd.engine.build import Roots, check
from raykd.errors import RaykdError
from raykd.objectives import default_objective, reported_as
from raykd.parallel import World
from raykd.recipe import Recipe, entailed_runs
from raykd.search_space import SearchSpace

_HOLDOUT = 0.1  # of what is learnt from, where an objective is measured on real images


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
    """Say what will be searched: settle the objectives, and hold images out where one is measured on them.

    Raises:
        UsageError: if runs of the recipe do not measure an objective.
    """
    recipe = space.recipe_of({})
    objectives = space.objectives or (default_objective(recipe),)
    reported = [reported_as(name, recipe) for name in objectives]
    if any(name and name.startswith("holdout/") for name in reported) and not recipe.data.holdout:
        space = space.model_copy(update={"overrides": {**space.overrides, "data.holdout": _HOLDOUT}})
    content = space.model_dump(
        mode="json", exclude={"name", "trials", "keep", "points", "earlier", "sampler", "scheduler"}
    )
    content["objectives"] = objectives
    content["recipe"] = space.recipe_of({}).content_hash
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    return Search(space, objectives, store.absolute() / "searches" / f"{space.name}-{digest}")


def search(
    planned: Search,
    cluster: Cluster,
    *,
    store: Path,
    data_root: Path | None,
    should_stop: Callable[[], bool],
    show: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Run trials until the space has as many as it wants; return and write the report of the search.

    What the study holds is not run again, and a trial that a killed tuner left is continued from its checkpoint.
    ``show`` is given the report as it grows.

    Raises:
        SearchStopped: once ``should_stop`` said so and the trials at work have saved.
        UsageError: for a slip in the space or in any recipe it makes, before anything starts.
        SetupError: without Ray or Optuna, an answering address, room for one trial, or the study's storage.
    """
    roots = Roots(data_root.absolute() if data_root else None, store.absolute())
    recipe = planned.space.recipe_of({})
    fitting_workers(recipe, cluster)
    if cluster.address == "local":
        for run in entailed_runs(recipe):
            check(run, World.alone(), roots)
    prepare_environment(cluster)
    with needs_ray(cluster):
        from raykd.cluster.tuner import Tuning
    return Tuning(planned, cluster, roots, should_stop, show).run()


def sources(space: SearchSpace) -> list[Recipe]:
    """Return the runs that trials build on, teachers and banks, whatever of their choices they make."""
    recipes = [space.recipe_of({})]
    for key, dimension in space.space.items():
        if dimension.choice is not None and not dimension.when:
            recipes += [space.recipe_of({key: value}) for value in dimension.choice]
    runs = {run.run_id: run for recipe in recipes for run in entailed_runs(recipe)[:-1]}
    return list(runs.values())
