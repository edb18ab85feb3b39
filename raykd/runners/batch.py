"""Many runs in one store as parallel trials, each once, in the order in which they build on each other.

Importable without Ray.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.cluster.workers import fitting_workers
from raykd.distributed.world import World
from raykd.engine.build import check
from raykd.errors import MissingData, RaykdError
from raykd.recipe.experiment import Experiment
from raykd.results import RunResult
from raykd.store.workspace import Location, open_workspace


@dataclass(frozen=True)
class RunOutcome:
    """How a trial ended: with its run's result, or with the reason (one line) why there is none."""

    result: RunResult | None
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
    experiments: Sequence[Experiment],
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
    ended: Callable[[Experiment, RunOutcome], None],
) -> dict[str, RunOutcome]:
    """Run experiments, and the teachers and banks they build on, side by side; their controls are left out.

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
    runs = _in_order(experiments)
    missing: dict[str, MissingData] = {}
    for run in runs:
        fitting_workers(run, cluster)
        if cluster.address == "local":  # elsewhere the data need not be where this process is
            try:
                check(run, World.alone(), workspace)
            except MissingData as error:
                missing[run.run_id] = error
    outcomes: dict[str, RunOutcome] = {}
    waiting = []
    workspace.pull([run.run_id for run in runs], World.alone(), checkpoints="none")
    for run in runs:
        result = workspace.run(run.run_id).result()
        if result is not None:
            outcomes[run.run_id] = RunOutcome(result)
        elif run.run_id in missing:
            outcomes[run.run_id] = RunOutcome(None, str(missing[run.run_id]))
        else:
            waiting.append(run)
    if missing and not waiting and all(one.result is None for one in outcomes.values()):
        raise next(iter(missing.values()))
    for run in runs:
        if run.run_id in outcomes:
            ended(run, outcomes[run.run_id])
    if not waiting:
        return outcomes
    apply_ray_settings(cluster)
    with needs_ray(cluster):
        from raykd.runners.ray.pool import RunPool
    return RunPool(cluster, workspace, waiting, outcomes, ended).run(should_stop)


def _in_order(experiments: Sequence[Experiment]) -> list[Experiment]:
    runs = {run.run_id: run for one in experiments for run in one.without_controls().runs}
    return [run.without_controls() for run in runs.values()]
