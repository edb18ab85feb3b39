"""Run a search, stage after stage: trials on Ray Tune. Importable without Ray and Optuna."""

from collections.abc import Callable
from dataclasses import replace

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.cluster.workers import fitting_workers
from raykd.distributed.world import World
from raykd.engine.build import check
from raykd.results import SearchResult
from raykd.search.setup import Search
from raykd.store.workspace import Location, Workspace, open_workspace
from raykd.tracking.tracker import require_trackers


def search(
    planned: Search,
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
    show: Callable[[SearchResult], None],
) -> SearchResult:
    """Run the trials of each stage; return the report of the last stage, with the one before it as ``first``.

    What a study holds is not run again, and a trial that a killed tuner left is continued from its checkpoint. A stage
    whose trials all failed has no generators for the next one, and is the last.

    Args:
        planned: the first stage.
        cluster: where trials run.
        store: where runs, studies and reports are kept.
        data_root: where data sets are.
        should_stop: asked now and then whether to save and stop.
        show: given the report as it grows, which is written to search.json too.

    Raises:
        SearchStopped: once ``should_stop`` said so and the trials at work have saved.
        UsageError: for a slip in the space, of any stage, or in a recipe that it makes, before anything starts.
        SetupError: without Ray or Optuna, an answering address, room for one trial, a tracker's package, or the
            study's storage; or once a disk or a store has failed a trial, which goes on when that is mended.
    """
    require_trackers(cluster.trackers)
    workspace = open_workspace(store, data_root)
    stages = planned.stages()
    for stage in stages:
        _check_stage(stage, cluster, workspace)
    apply_ray_settings(cluster)
    with needs_ray(cluster):
        from raykd.runners.ray.tuner import Tuning
        from raykd.search.study import load_earlier_trials
    for stage in stages[1:]:
        load_earlier_trials(stage.space, stage.objectives)  # the first stage does that before anything else
    report: SearchResult | None = None
    following: Search | None = planned
    while following is not None:
        report = replace(Tuning(following, cluster, workspace, should_stop, show).run(), first=report)
        following = following.next_stage(dict(report.best[0].parameters)) if report.best else None
    assert report is not None, "there is a first stage"
    return report


def _check_stage(stage: Search, cluster: Cluster, workspace: Workspace) -> None:
    experiment = stage.space.make_experiment({})
    fitting_workers(experiment, cluster)
    if cluster.address == "local":
        for run in experiment.runs:
            check(run, World.alone(), workspace)
