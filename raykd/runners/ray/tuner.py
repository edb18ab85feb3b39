"""The driver's side of a search on Ray: trials go out, the study fills, the report grows."""

import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.errors import RunFailed, SetupError, error_from_dict
from raykd.recipe.experiment import Experiment
from raykd.results import SearchResult
from raykd.runners.batch import run_batch
from raykd.runners.ray.internals import HEAD_RESOURCE
from raykd.runners.ray.schedulers import scheduler_of
from raykd.runners.ray.searcher import MADE, Segment, StudySearcher
from raykd.runners.ray.session import connected, room_for, what_is_free
from raykd.runners.ray.signals import RunSignals
from raykd.runners.ray.trial import TrialTask, make_sets, run_of, run_trial
from raykd.runners.ray.worker import WorkerTask
from raykd.search.grid import target_of
from raykd.search.objectives import OBJECTIVES
from raykd.search.population import Population
from raykd.search.report import report_of, write_figures, write_search
from raykd.search.setup import Search, SearchStopped, sources
from raykd.search.study import best_trials, counted, enqueue, finished, learn_from_earlier, open_study, working
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails tells its reason and no objective
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # deaths of processes, told below in a line instead of a traceback
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_REPORT_SECONDS = 2.0
_POLL_SECONDS = 0.2
_SEND_SECONDS = 15.0
_STARVING_SECONDS = 20.0
_ENDLESS = 1_000_000  # trials, to Tune: the searcher says when there are enough


class Tuning:
    """One search, from its study to its report."""

    def __init__(
        self,
        planned: Search,
        cluster: Cluster,
        workspace: Workspace,
        should_stop: Callable[[], bool],
        show: Callable[[SearchResult], None],
    ) -> None:
        """Take what is searched, where, and whom to tell."""
        self._planned, self._cluster, self._workspace = planned, cluster, workspace
        self._should_stop, self._show = should_stop, show
        self._signals = RunSignals(workspace.addresses[0], f"search-{uuid.uuid4().hex[:8]}")
        self._name = planned.folder.relative_to(workspace.store).as_posix()
        self._sent = 0.0
        self._broken: str | None = None
        workspace.pull([self._name], World.alone())
        space = planned.space
        self._study = open_study(space, planned.objectives, planned.folder, cluster.study)
        self._target = target_of(space)
        self._population = None
        if space.scheduler.name == "pbt":
            sign = 1 if OBJECTIVES[planned.objectives[0]] == "maximize" else -1
            self._population = Population(self._study, space, workspace, sign)
            self._target = space.trials * len(space.generation_ends())

    def run(self) -> SearchResult:
        """Search; see ``raykd.search.setup.search``."""
        with working(self._study, self._planned.folder) as tuner:
            enqueue(self._study, self._planned.space)
            if learnt := learn_from_earlier(self._study, self._planned.space):
                logger.info("%d trials of %s are known beforehand", learnt, self._planned.space.earlier)
            if len(finished(self._study)) < self._target:
                self._signals.open()
                try:
                    self._on_ray(tuner)
                finally:
                    self._signals.close()
        if self._broken:
            raise SetupError(self._broken)
        report = replace(self.report(), figures=write_figures(self._study, self._planned.folder / "figures"))
        self._send()
        if self._should_stop() and len(finished(self._study)) < self._target:
            raise SearchStopped(len(finished(self._study)), self._target)
        if self._population is not None and (why := self._population.failure()):
            return replace(report, failure=why)
        return report

    def report(self) -> SearchResult:
        """Return the state of the search, written beside the study and shown."""
        report = report_of(
            self._study.study_name,
            counted(self._study),
            best_trials(self._study),
            self._planned.space,
            self._planned.objectives,
            self._target,
        )
        report = replace(
            report,
            images_made={
                "before the trials": self._study.user_attrs.get(MADE, 0),
                "by the trials": sum(trial.user_attrs.get(MADE, 0) for trial in finished(self._study)),
            },
            directory=self._workspace.display_name(self._name),
            updated=time.time(),
        )
        write_search(report, self._planned.space, self._planned.folder)
        if time.monotonic() - self._sent > _SEND_SECONDS:
            self._send()
        self._show(report)
        return report

    def _send(self) -> None:
        """Send study and report to the store; while trials go on, a store that does not answer has to wait."""
        self._workspace.push(self._name, World.alone())
        self._sent = time.monotonic()

    def _on_ray(self, tuner: str) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in _SETTINGS.items()})
        cluster, workers = self._cluster, max(1, self._cluster.worker_range[1])
        with connected(cluster, max(1, cluster.worker_range[0])):
            places = room_for(cluster) // workers
            if places < 1:
                raise SetupError(
                    f"cluster {cluster.name!r} has room for {room_for(cluster)} workers and a trial takes {workers}: "
                    "lower workers, cpus_per_worker or gpus_per_worker"
                )
            logger.info("%d trials of %d workers at a time", places, workers)
            before = sources(self._planned.space)
            if before:
                self._train_first(before)
            self._make_sets({run.run_id for run in before})
            if not self._should_stop():
                self._tune(tuner, places, workers)

    def _train_first(self, runs: list[Experiment]) -> None:
        ended = run_batch(
            runs,
            self._cluster,
            store=self._workspace.addresses[0],
            data_root=self._workspace.addresses[1],
            should_stop=self._should_stop,
            ended=lambda recipe, how: None,
        )
        failed = [(run, how.reason) for run, how in ended.items() if how.result is None]
        if failed:
            raise RunFailed(f"run {failed[0][0]}, which the trials build on, failed: {failed[0][1]}")

    def _make_sets(self, finished: set[str]) -> None:
        """Make the frozen sets that all trials share."""
        experiment, cluster = self._planned.space.experiment_of({}), self._cluster
        made_by = {run.run_id for run in experiment.sources} & {images.run for images in experiment.image_sets}
        if self._should_stop() or not experiment.image_sets or not made_by <= finished:
            return
        resources = {"num_cpus": cluster.cpus_per_worker, "num_gpus": cluster.gpus_per_worker}
        config = asdict(WorkerTask.of(experiment, cluster, self._workspace, self._signals))
        task = ray.remote(make_sets).options(max_retries=0, **resources).remote(config)
        while not ray.wait([task], timeout=_POLL_SECONDS)[0]:
            if self._should_stop():  # whole files stay, and the next command goes on behind them
                ray.cancel(task, force=True)
                return
        told = ray.get(task)
        if "made" not in told:
            raise error_from_dict(told)
        self._study.set_user_attr(MADE, self._study.user_attrs.get(MADE, 0) + told["made"])

    def _tune(self, tuner: str, places: int, workers: int) -> None:
        searcher = StudySearcher(
            self._study,
            self._planned.space,
            self._planned.objectives,
            tuner=tuner,
            target=self._target,
            workspace=self._workspace,
            should_stop=self._stopping,
            trial_task=self._trial_task,
            broken=self._break,
            population=self._population,
        )
        cluster = self._cluster
        each = {"cpu": cluster.cpus_per_worker, "gpu": cluster.gpus_per_worker}
        resources = each if workers == 1 else {"cpu": 0, HEAD_RESOURCE: 0.001}
        with tempfile.TemporaryDirectory(prefix="raykd-tune-") as scratch:
            logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # our table tells what failed, and why
            tune.Tuner(
                tune.with_resources(run_trial, resources),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=scheduler_of(self._planned.space, self._planned.objectives[0], self._study),
                    num_samples=_ENDLESS,
                    max_concurrent_trials=places,
                    reuse_actors=workers == 1,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[_Watching(self.report, self._stopping, lambda: what_is_free(cluster, workers))],
                    failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
                ),
            ).fit()

    def _break(self, why: str) -> None:
        self._broken = self._broken or why

    def _stopping(self) -> bool:
        """Pass a stop on to the trials."""
        stopping = self._should_stop() or self._broken is not None
        if stopping:
            self._signals.ask_to_stop()
        return stopping

    def _trial_task(self, experiment: Experiment, segment: Segment) -> dict[str, Any]:
        cluster = self._cluster
        task = WorkerTask.of(experiment, cluster, self._workspace, self._signals, segment[1])
        # Only the driver touches the study, whose address may hold a password.
        together = cluster.model_copy(update={"address": "auto", "study": None}).model_dump()
        return asdict(
            TrialTask(asdict(task), list(self._planned.objectives), together, segment[0], self._planned.space.seeds)
        )


class _Watching(tune.Callback):  # type: ignore[misc]  # Ray is not typed here
    """Looks at a stop now and then, and reports as trials go on and end."""

    def __init__(self, report: Callable[[], Any], stopping: Callable[[], bool], free: Callable[[], str]) -> None:
        self._report, self._stopping, self._free = report, stopping, free
        self._last = self._starved = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing: Tune pickles what it is given, and what shows the report may be a terminal."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Pass a stop on; report now and then; say what a trial waits for that should be at work."""
        self._stopping()
        waiting = sum(trial.status == Trial.PENDING for trial in trials)
        if not waiting:
            self._starved = time.monotonic()
        elif time.monotonic() - self._starved > _STARVING_SECONDS:
            self._starved = time.monotonic()
            logger.warning("%d trial(s) wait for room: each needs %s", waiting, self._free())
        if time.monotonic() - self._last > _REPORT_SECONDS:
            self._tell()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report."""
        self._tell()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that the process of a trial, or its node, is gone."""
        logger.warning("the process of %s died; it goes on from its last checkpoint", run_of(trial.config))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say which trial is given up, and report."""
        logger.warning("the process of %s died again; the trial counts as failed", run_of(trial.config))
        self._tell()

    def _tell(self) -> None:
        self._last = time.monotonic()
        self._report()
