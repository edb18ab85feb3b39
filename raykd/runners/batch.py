"""Many runs in one store as parallel trials, each once, in the order in which they build on each other.

Importable without Ray.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.cluster.workers import fitting_workers
from raykd.distributed.world import World
from raykd.engine.build import check
from raykd.errors import MissingData, RaykdError
from raykd.recipe.recipe import Recipe, entailed_runs, source_runs
from raykd.store.run_directory import read_status
from raykd.store.workspace import Location, open_workspace


@dataclass(frozen=True)
class RunOutcome:
    """How a trial ended: with its run's result, or with the reason (one line) why there is none."""

    result: dict[str, Any] | None
    reason: str | None = None


class BatchStopped(RaykdError):
    """The trials were asked to stop; those at work have saved first."""

    exit_code = 130

    def __init__(self, finished: int, stopped: int, trials: int) -> None:
        """Say how far they came."""
        super().__init__(
            f"stopped with {finished} of {trials} runs finished and {stopped} saved on the way; "
            "the same command continues"
        )


def run_batch(
    recipes: Sequence[Recipe],
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
    ended: Callable[[Recipe, RunOutcome], None],
) -> dict[str, RunOutcome]:
    """Run recipes, and the teachers and banks they build on, as parallel trials; their controls are left out.

    ``ended`` is called as each trial ends, at once for runs that the store holds finished and for those whose data is
    not there, unless that is so of all. A trial that fails is
    recorded and stops only those that build on it; one whose process dies is started again from its checkpoint, up to
    ``cluster.max_failures`` times. A trial of one worker is a process, one of several a Ray Train run; as many go at a
    time as the cluster has room for.

    Returns:
        How each run ended, by run id, those that others build on among them.

    Raises:
        TrialsStopped: once ``should_stop`` said so and the trials at work have saved.
        UsageError: for a slip in any recipe, before anything starts.
        MissingData: if no run has its data.
        SetupError: without Ray, an answering address or room for one trial.
    """
    workspace = open_workspace(store, data_root)
    runs = _in_order([recipe.model_copy(update={"controls": ()}) for recipe in recipes])
    missing: dict[str, MissingData] = {}
    for recipe in runs:
        fitting_workers(recipe, cluster)
        if cluster.address == "local":  # elsewhere the data need not be where this process is
            try:
                check(recipe, World.alone(), workspace)
            except MissingData as error:
                missing[recipe.run_id] = error
    outcomes: dict[str, RunOutcome] = {}
    waiting = []
    workspace.pull([recipe.run_id for recipe in runs], World.alone(), checkpoints="none")
    for recipe in runs:
        status = read_status(workspace.store / recipe.run_id)
        if status.get("state") == "finished":
            outcomes[recipe.run_id] = RunOutcome(status["result"])
        elif recipe.run_id in missing:
            outcomes[recipe.run_id] = RunOutcome(None, str(missing[recipe.run_id]))
        else:
            waiting.append(recipe)
    if missing and not waiting and all(one.result is None for one in outcomes.values()):
        raise next(iter(missing.values()))
    for recipe in runs:
        if recipe.run_id in outcomes:
            ended(recipe, outcomes[recipe.run_id])
    if not waiting:
        return outcomes
    apply_ray_settings(cluster)
    with needs_ray(cluster):
        from raykd.runners.ray.pool import RunPool
    return RunPool(cluster, workspace, waiting, outcomes, ended).run(should_stop)


def sources_of(recipe: Recipe) -> list[str]:
    """Return the ids of the runs that a recipe builds on directly."""
    return [run.run_id for run in source_runs(recipe)]


def _in_order(recipes: Sequence[Recipe]) -> list[Recipe]:
    runs = {run.run_id: run for recipe in recipes for run in entailed_runs(recipe)}
    return [run.model_copy(update={"controls": ()}) for run in runs.values()]
