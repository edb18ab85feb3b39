"""Train a run up to a step, in this process or on a cluster; what is there already is not trained again."""

from collections.abc import Callable
from dataclasses import dataclass

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.engine.stop import Interrupted
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import without_test
from raykd.results import RunResult
from raykd.runners.local import run_here
from raykd.runners.pages import keep_run_pages
from raykd.runners.train import train
from raykd.store.checkpoint import latest_checkpoint, step_of
from raykd.store.workspace import Location, Workspace
from raykd.tracking.session import tracked


@dataclass(frozen=True)
class Trainer:
    """Trains runs of a session.

    Attributes:
        cluster: where.
        workspace: where runs and data are, ``store`` and ``data_root`` as they were given.
        should_stop: asked about twice a second whether to save and stop.
        tune_host: whether this process may be set for speed.
    """

    cluster: Cluster
    workspace: Workspace
    store: Location
    data_root: Location | None
    should_stop: Callable[[], bool]
    tune_host: bool = False

    def step_of(self, experiment: Experiment) -> int:
        """Return the step of a run's newest checkpoint, 0 before one; of a finished run its last."""
        self.workspace.pull([experiment.run_id], World.alone())
        run = self.workspace.run(experiment.run_id)
        if run.has_begun and run.is_finished:
            return experiment.recipe.schedule.steps
        newest = latest_checkpoint(run.checkpoints)
        return 0 if newest is None else step_of(newest)

    def advance(self, experiment: Experiment, until: int) -> None:
        """Train a run up to a step, one of a report; no test image is opened.

        Raises:
            Interrupted: if it was asked to stop before, and has saved.
            RaykdError: as the run does.
        """
        if self.step_of(experiment) >= until:
            return
        blind = experiment.with_recipe(without_test(experiment.recipe))
        try:
            if self.cluster.workers == 0:
                with tracked(self.cluster.trackers, [experiment], self.workspace, elsewhere=False):
                    self._run_here(blind, until)
            else:
                self._run_on_cluster(blind, until)
        except Interrupted:
            if self.step_of(experiment) < until:
                raise

    def finish(self, experiment: Experiment) -> RunResult:
        """Train a run to its end; the test split, if there is one, is opened at the last report only.

        Raises:
            Interrupted: if it was asked to stop before, and has saved.
            RaykdError: as the run does.
        """
        schedule = experiment.recipe.schedule
        self.advance(experiment, schedule.steps - schedule.report_every)
        if self.cluster.workers != 0:
            return self._run_on_cluster(experiment, None)
        with tracked(self.cluster.trackers, [experiment], self.workspace, elsewhere=False):
            result = self._run_here(experiment, None)
            keep_run_pages([experiment.run_id], self.workspace)
        return result

    def _run_on_cluster(self, experiment: Experiment, until: int | None) -> RunResult:
        return train(
            experiment,
            self.cluster,
            store=self.store,
            data_root=self.data_root,
            should_stop=self.should_stop,
            until=until,
        )

    def _run_here(self, experiment: Experiment, until: int | None) -> RunResult:
        return run_here(
            experiment,
            self.workspace,
            self.cluster.runtime,
            should_stop=self.should_stop,
            until=until,
            tune_host=self.tune_host,
        )
