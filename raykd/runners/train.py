"""Train a recipe where a cluster says: in this process, or by workers of Ray. Importable without Ray."""

import json
from collections.abc import Callable
from typing import Any

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.cluster.workers import fitting_workers
from raykd.distributed.host import prepare_host
from raykd.distributed.world import World
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.recipe.recipe import Recipe, entailed_runs
from raykd.store.run_directory import read_status
from raykd.store.workspace import Location, Workspace, open_workspace


def train(
    recipe: Recipe,
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Train, or go on with, the recipe's run in ``store`` and return its result.

    Raises:
        Interrupted: once ``should_stop`` (asked about twice a second) said so and the workers have saved.
        UsageError: if no allowed number of workers divides a batch.
        SetupError: without Ray, an answering address or enough resources.
        RunFailed: if workers kept dying.
    """
    fitting = fitting_workers(recipe, cluster)
    # Where relative names mean another directory, as in a worker, the same places must be meant.
    workspace = open_workspace(store, data_root)
    world = World.alone()
    if cluster.workers == 0:
        prepare_host(cluster.threads)
        world = World.current(cluster.precision)
    elif not _is_finished(recipe, workspace):  # else all is only read, for which Ray need not start
        apply_ray_settings(cluster)
        with needs_ray(cluster):
            from raykd.runners.ray.driver import run_on_ray
        return run_on_ray(recipe, cluster, workspace, fitting, should_stop)
    place = RunContext(
        world,
        workspace,
        cluster.runtime,
        lambda directory: LocalReporter(directory, should_stop, world, workspace.mirror),
    )
    return run(recipe, place)


def _is_finished(recipe: Recipe, workspace: Workspace) -> bool:
    """Tell whether the run is finished, and all that training it means."""

    def status(run: str) -> dict[str, Any]:
        if workspace.mirror is None:
            return read_status(workspace.store / run)
        # Bringing it would write over what a worker on this machine may be writing.
        told: dict[str, Any] = json.loads(workspace.mirror.remote.read(f"{run}/status.json") or b"{}")
        return told

    return all(status(one.run_id).get("state") == "finished" for one in entailed_runs(recipe))
