"""Many runs in one store, side by side, each once, in the order in which they build on each other.

Importable without Ray.
"""

from collections.abc import Callable, Sequence

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.cluster.workers import fitting_workers
from raykd.distributed.world import World
from raykd.engine.build import check
from raykd.engine.run import check_files
from raykd.errors import MissingData, UsageError
from raykd.recipe.experiment import Experiment
from raykd.results import RunResult
from raykd.runners.outcome import RunOutcome
from raykd.store.workspace import Location, Workspace, open_workspace
from raykd.tracking.session import tracked
from raykd.tracking.tracker import require_trackers


def run_batch(
    experiments: Sequence[Experiment],
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
    on_outcome: Callable[[Experiment, RunOutcome], None],
) -> dict[str, RunOutcome]:
    """Run experiments, and the teachers and banks they build on, side by side; their controls are left out.

    A run that fails stops only those that build on it; one whose process dies is started again from its checkpoint, up
    to ``cluster.max_failures`` times. A run of one worker is a process, one of several a Ray Train run; as many go at a
    time as the cluster has room for.

    Args:
        experiments: the runs.
        cluster: where they run.
        store: where run directories are kept.
        data_root: where data sets are.
        should_stop: asked now and then whether to save and stop.
        on_outcome: called as each run ends; at once for runs that the store holds finished, and for those whose data is
            missing while others have theirs.

    Returns:
        How each run ended, by run id, those that others build on among them.

    Raises:
        BatchStopped: once ``should_stop`` said so and the runs at work have saved.
        UsageError: for a slip in any recipe, before anything starts.
        MissingData: if no run has its data.
        SetupError: without Ray, an answering address, room for one run or a tracker's package.
    """
    require_trackers(cluster.trackers)
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
            outcomes[run.run_id] = _outcome_of(run, result, workspace)
        elif run.run_id in missing:
            outcomes[run.run_id] = RunOutcome(None, str(missing[run.run_id]))
        else:
            waiting.append(run)
    if missing and not waiting and all(outcome.result is None for outcome in outcomes.values()):
        raise next(iter(missing.values()))
    for run in runs:
        if run.run_id in outcomes:
            on_outcome(run, outcomes[run.run_id])
    if not waiting:
        return outcomes
    apply_ray_settings(cluster)
    with needs_ray(cluster):
        from raykd.runners.ray.pool import RunPool
    with tracked(cluster.trackers, waiting, workspace, elsewhere=cluster.address != "local"):
        return RunPool(cluster, workspace, waiting, outcomes, on_outcome).run(should_stop)


def _outcome_of(run: Experiment, result: RunResult, workspace: Workspace) -> RunOutcome:
    """Return how a finished run ended; as failed where its result is not that of its teacher's file any more."""
    try:
        check_files(run, workspace)
    except UsageError as error:
        return RunOutcome(None, str(error))
    return RunOutcome(result)


def _in_order(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Return the runs with those that they build on before them, each once."""
    runs = {run.run_id: run for experiment in experiments for run in experiment.without_controls().runs}
    return [run.without_controls() for run in runs.values()]
