"""Train a recipe where a cluster says: in this process, or by workers of Ray. Importable without Ray."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raykd.cluster.config import Cluster
from raykd.cluster.environment import prepare_environment
from raykd.engine.host import prepare_host
from raykd.engine.report import LocalReporter, read_status
from raykd.engine.roots import Roots, Where, roots_at
from raykd.engine.run import Place, run
from raykd.errors import SetupError, UsageError
from raykd.methods import METHODS
from raykd.parallel import World
from raykd.recipe import Recipe, entailed_runs


def train(
    recipe: Recipe,
    cluster: Cluster,
    *,
    store: Where,
    data_root: Where | None,
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
    roots = roots_at(store, data_root)
    world = World.alone()
    if cluster.workers == 0:
        prepare_host(cluster.threads)
        world = World.current(cluster.precision)
    elif not _is_finished(recipe, roots):  # else all is only read, for which Ray need not start
        prepare_environment(cluster)
        with needs_ray(cluster):
            from raykd.cluster.job import run_on_ray
        return run_on_ray(recipe, cluster, roots, fitting, should_stop)
    place = Place(
        world, roots, cluster.runtime, lambda directory: LocalReporter(directory, should_stop, world, roots.mirror)
    )
    return run(recipe, place)


def _is_finished(recipe: Recipe, roots: Roots) -> bool:
    """Tell whether the run is finished, and all that training it means."""

    def status(run: str) -> dict[str, Any]:
        if roots.mirror is None:
            return read_status(roots.store / run)
        # Bringing it would write over what a worker on this machine may be writing.
        told: dict[str, Any] = json.loads(roots.mirror.remote.read(f"{run}/status.json") or b"{}")
        return told

    return all(status(one.run_id).get("state") == "finished" for one in entailed_runs(recipe))


@contextmanager
def needs_ray(cluster: Cluster) -> Iterator[None]:
    """Within, an import that fails for want of Ray is a SetupError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise SetupError(
            f"cluster {cluster.name!r} needs Ray ({error}); run `pip install 'raykd[ray]'`, or `raykd train` without "
            "a cluster"
        ) from None


def fitting_workers(recipe: Recipe, cluster: Cluster) -> list[int]:
    """Return the numbers of workers that the cluster allows and that divide every batch, ascending.

    The batches are those of the recipe, of its teacher's run and of its controls; each share has two images or more.

    Raises:
        UsageError: if there is none, naming numbers that would do.
    """
    batches = {
        run.name: run.schedule.global_batch
        for run in entailed_runs(recipe)
        if METHODS[run.method.name].dealt == "images"  # classes may be dealt unevenly
    }
    low, high = cluster.worker_range
    if high == 0:
        return [0]
    dividing = [
        count
        for count in range(1, max([high, *(batch // 2 for batch in batches.values())]) + 1)
        if all(batch % count == 0 and batch // count >= 2 for batch in batches.values())
    ]
    fitting = [count for count in dividing if low <= count <= high]
    if not fitting:
        listed = ", ".join(f"{name}: {batch}" for name, batch in batches.items())
        allowed = str(low) if low == high else f"{low} to {high}"
        near = ", ".join(map(str, [c for c in dividing if c <= 2 * high]))
        raise UsageError(
            f"cluster {cluster.name!r} allows {allowed} workers, which do not divide the global batches "
            f"({listed}); these would: {near}. Set workers in the cluster file, or schedule.global_batch"
        )
    return fitting
