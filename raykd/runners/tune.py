"""Search a space of recipes: trials on Ray Tune. Importable without Ray and Optuna."""

from collections.abc import Callable
from dataclasses import replace

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.cluster.workers import fitting_workers
from raykd.distributed.world import World
from raykd.engine.build import check
from raykd.recipe.experiment import Experiment
from raykd.results import SearchResult
from raykd.search.setup import Search, plan_search
from raykd.store.workspace import Location, Workspace, open_workspace


def search(
    planned: Search,
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
    show: Callable[[SearchResult], None],
) -> SearchResult:
    """Run trials until the space has as many as it wants; return and write the report of the search.

    What the study holds is not run again, and a trial that a killed tuner left is continued from its checkpoint.
    ``show`` is given the report as it grows.

    Raises:
        SearchStopped: once ``should_stop`` said so and the trials at work have saved.
        UsageError: for a slip in the space, of either stage, or in any recipe it makes, before anything starts.
        SetupError: without Ray or Optuna, an answering address, room for one trial, or the study's storage; or once
            a disk or a store has failed a trial, which goes on when that is mended.
    """
    workspace = open_workspace(store, data_root)
    then = None if planned.space.then is None else plan_search(planned.space.second({}), workspace.store)
    for stage in (planned, then):
        if stage is not None:
            _check_stage(stage.space.experiment_of({}), cluster, workspace)
    apply_ray_settings(cluster)
    with needs_ray(cluster):
        from raykd.runners.ray.tuner import Tuning
        from raykd.search.study import earlier_trials
    if then is not None:
        earlier_trials(then.space, then.objectives)
    report = Tuning(planned, cluster, workspace, should_stop, show).run()
    if then is None or not report.best:
        return report
    second = plan_search(planned.space.second(report.best[0].parameters), workspace.store)
    return replace(Tuning(second, cluster, workspace, should_stop, show).run(), first=report)


def _check_stage(experiment: Experiment, cluster: Cluster, workspace: Workspace) -> None:
    fitting_workers(experiment, cluster)
    if cluster.address == "local":
        for run in experiment.runs:
            check(run, World.alone(), workspace)
