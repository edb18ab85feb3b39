"""How many workers a recipe may have on a cluster."""

import math

from raykd.cluster.config import Cluster
from raykd.errors import UsageError
from raykd.methods import METHODS
from raykd.recipe.experiment import Experiment


def fitting_workers(experiment: Experiment, cluster: Cluster) -> list[int]:
    """Return the numbers of workers that the cluster allows and that divide every batch, ascending.

    The batches are those of the recipe, of its teacher's run and of its controls; each share has two images or more.

    Raises:
        UsageError: if there is none, naming numbers that would do.
    """
    batches = {
        run.recipe.name: run.recipe.schedule.global_batch
        for run in experiment.runs
        if METHODS[run.recipe.method.name].sharded_by == "images"  # classes may be dealt unevenly
    }
    low, high = cluster.worker_range
    if high == 0:
        return [0]
    if batches:
        dividing = [count for count in _divisors(math.gcd(*batches.values())) if 2 * count <= min(batches.values())]
    else:
        dividing = list(range(1, high + 1))
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


def _divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending, in as many steps as its root."""
    low = [count for count in range(1, math.isqrt(number) + 1) if number % count == 0]
    return sorted({*low, *(number // count for count in low)})
