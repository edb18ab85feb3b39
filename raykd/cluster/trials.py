"""Many runs in one store as parallel trials, each once, in the order in which they build on each other.

Importable without Ray.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.cluster.config import Cluster
from raykd.cluster.environment import prepare_environment
from raykd.cluster.train import fitting_workers, needs_ray
from raykd.engine.build import check
from raykd.engine.report import read_status
from raykd.engine.roots import Where, roots_at
from raykd.errors import MissingData, RaykdError
from raykd.parallel import World
from raykd.recipe import Recipe, entailed_runs, source_runs


@dataclass(frozen=True)
class Ended:
    """How a trial ended: with its run's result, or with the reason (one line) why there is none."""

    result: dict[str, Any] | None
    reason: str | None = None


class TrialsStopped(RaykdError):
    """The trials were asked to stop; those at work have saved first."""

    exit_code = 130

    def __init__(self, finished: int, stopped: int, trials: int) -> None:
        """Say how far they came."""
        super().__init__(
            f"stopped with {finished} of {trials} runs finished and {stopped} saved on the way; "
            "the same command continues"
        )


def run_trials(
    recipes: Sequence[Recipe],
    cluster: Cluster,
    *,
    store: Where,
    data_root: Where | None,
    should_stop: Callable[[], bool],
    ended: Callable[[Recipe, Ended], None],
) -> dict[str, Ended]:
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
    roots = roots_at(store, data_root)
    runs = _in_order([recipe.model_copy(update={"controls": ()}) for recipe in recipes])
    missing: dict[str, MissingData] = {}
    for recipe in runs:
        fitting_workers(recipe, cluster)
        if cluster.address == "local":  # elsewhere the data need not be where this process is
            try:
                check(recipe, World.alone(), roots)
            except MissingData as error:
                missing[recipe.run_id] = error
    outcomes: dict[str, Ended] = {}
    waiting = []
    roots.bring([recipe.run_id for recipe in runs], World.alone(), checkpoints="none")
    for recipe in runs:
        status = read_status(roots.store / recipe.run_id)
        if status.get("state") == "finished":
            outcomes[recipe.run_id] = Ended(status["result"])
        elif recipe.run_id in missing:
            outcomes[recipe.run_id] = Ended(None, str(missing[recipe.run_id]))
        else:
            waiting.append(recipe)
    if missing and not waiting and all(one.result is None for one in outcomes.values()):
        raise next(iter(missing.values()))
    for recipe in runs:
        if recipe.run_id in outcomes:
            ended(recipe, outcomes[recipe.run_id])
    if not waiting:
        return outcomes
    prepare_environment(cluster)
    with needs_ray(cluster):
        from raykd.cluster.trial_pool import TrialPool
    return TrialPool(cluster, roots, waiting, outcomes, ended).run(should_stop)


def sources_of(recipe: Recipe) -> list[str]:
    """Return the ids of the runs that a recipe builds on directly."""
    return [run.run_id for run in source_runs(recipe)]


def _in_order(recipes: Sequence[Recipe]) -> list[Recipe]:
    runs = {run.run_id: run for recipe in recipes for run in entailed_runs(recipe)}
    return [run.model_copy(update={"controls": ()}) for run in runs.values()]
