"""Train a recipe where a cluster says: in this process, or by workers of Ray. Importable without Ray."""

from collections.abc import Callable

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.cluster.workers import fitting_workers
from raykd.distributed.world import World
from raykd.recipe.experiment import Experiment
from raykd.results import RunResult
from raykd.runners.local import run_here
from raykd.runners.pages import keep_run_pages
from raykd.store.workspace import Location, Workspace, open_workspace
from raykd.tracking.session import tracked


def train(
    experiment: Experiment,
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
    tune_host: bool = True,
    until: int | None = None,
) -> RunResult:
    """Train, or go on with, a run in ``store`` and return its result; ``until`` a step, one of a report, it is left.

    Raises:
        Interrupted: at ``until``, or once ``should_stop`` (asked about twice a second) said so, when the workers have
            saved.
        UsageError: if no allowed number of workers divides a batch.
        SetupError: without Ray, an answering address, enough resources or a tracker's package.
        RunFailed: if workers kept dying.
    """
    fitting = fitting_workers(experiment, cluster)
    # Where relative names mean another directory, as in a worker, the same places must be meant.
    workspace = open_workspace(store, data_root)
    with tracked(cluster.trackers, experiment.runs, workspace, elsewhere=cluster.address != "local"):
        result = _train(experiment, cluster, workspace, fitting, should_stop, tune_host, until)
        # The run's own page comes last: it has links to the others.
        others = [run.run_id for run in experiment.runs if run.run_id != experiment.run_id]
        keep_run_pages([*others, experiment.run_id], workspace)
    return result


def _train(
    experiment: Experiment,
    cluster: Cluster,
    workspace: Workspace,
    fitting: list[int],
    should_stop: Callable[[], bool],
    tune_host: bool,
    until: int | None,
) -> RunResult:
    in_this_process = cluster.workers == 0
    if in_this_process or _is_finished(experiment, workspace):  # what is only read needs no Ray
        tune_host = tune_host and in_this_process
        return run_here(
            experiment, workspace, cluster.runtime, should_stop=should_stop, until=until, tune_host=tune_host
        )
    apply_ray_settings(cluster)
    with needs_ray(cluster):
        from raykd.runners.ray.driver import run_on_ray
    return run_on_ray(experiment, cluster, workspace, fitting, should_stop, until)


def _is_finished(experiment: Experiment, workspace: Workspace) -> bool:
    """Tell whether the run is finished, and all that training it means, so that nothing is trained.

    A remote store is asked first: pulling a run that goes on would write over what a worker on this machine may be
    writing.
    """
    names = [run.run_id for run in experiment.runs]
    if workspace.mirror is not None:
        if any(workspace.state_of(name) != "finished" for name in names):
            return False
        workspace.pull(names, World.alone(), checkpoints="none")
    return all(workspace.run(name).is_finished for name in names)
