"""The driver's side of a search on Ray Tune: trials are started, the study filled, the report written."""

import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from optuna.trial import TrialState
from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.errors import RunFailed, SetupError, error_from_dict
from raykd.files import describe, held, sweep_folders, write_json
from raykd.recipe.experiment import Experiment
from raykd.results import SearchResult
from raykd.runners.batch import run_batch
from raykd.runners.pages import keep_by_product, keep_run_pages, keep_search_page
from raykd.runners.ray.heartbeat import WorkerWatch
from raykd.runners.ray.internals import HEAD_RESOURCE
from raykd.runners.ray.schedulers import make_scheduler
from raykd.runners.ray.searcher import StudySearcher
from raykd.runners.ray.session import connected, room_for, what_is_free
from raykd.runners.ray.signals import RunSignals
from raykd.runners.ray.trial import TrialTask, make_sets, read_run_id, run_trial
from raykd.runners.ray.worker import WorkerTask
from raykd.search.attributes import IMAGES_MADE, RUN
from raykd.search.objectives import OBJECTIVES
from raykd.search.proposer import Proposer, make_proposer
from raykd.search.report import build_record, build_report, write_figures, write_search
from raykd.search.setup import Search, SearchStopped, shared_sources
from raykd.search.study import best_trials, ended_trials, open_study, started_trials
from raykd.search.study_storage import storage_errors
from raykd.search.trials import Segment, StudyTrials
from raykd.search.tuners import registered_tuner
from raykd.store.mirror import TRIALS
from raykd.store.workspace import Workspace
from raykd.tracking.session import Follow, tracked

logger = logging.getLogger(__name__)

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails reports its reason and no objective
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # deaths of processes, logged below in a line instead of a traceback
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_SCRATCH = "raykd-tune-"
_REPORT_SECONDS = 2.0
_POLL_SECONDS = 0.2
_PUSH_SECONDS = 15.0
_PAGES = 20  # runs of the best trials that get a page at once; `raykd report` writes others
_STARVING_SECONDS = 20.0
_ENDLESS = 1_000_000  # trials, for Tune: the proposer says when there are enough


class Tuning:
    """One stage of a search, from its study to its report."""

    def __init__(
        self,
        planned: Search,
        cluster: Cluster,
        workspace: Workspace,
        should_stop: Callable[[], bool],
        show: Callable[[SearchResult], None],
    ) -> None:
        """Open the study; ``show`` is given the report as it grows.

        Raises:
            SetupError: if the study's storage cannot be opened.
        """
        self._planned, self._cluster, self._workspace = planned, cluster, workspace
        self._should_stop, self._show = should_stop, show
        self._signals = RunSignals(workspace.addresses[0], f"search-{uuid.uuid4().hex[:8]}")
        self._name = planned.folder.relative_to(workspace.store).as_posix()
        self._last_push = 0.0
        self._follow: Follow
        self._outage: str | None = None
        self._has_asked = False
        self._watch = WorkerWatch(self._signals.job, cluster)
        workspace.pull([self._name], World.alone())
        self._study = open_study(planned.space, planned.objectives, planned.folder, cluster.study)

    def run(self) -> SearchResult:
        """Search until the target is reached; see ``raykd.runners.tune.search``."""
        elsewhere = self._cluster.address != "local"
        with (
            storage_errors(self._study.study_name),
            tracked(self._cluster.trackers, (), self._workspace, elsewhere=elsewhere) as self._follow,
        ):
            return self._run()

    def _run(self) -> SearchResult:
        planned = self._planned
        shared = self._cluster.study is not None
        with registered_tuner(self._study, planned.folder, shared=shared, should_stop=self._should_stop) as tuner:
            trials = StudyTrials(self._study, planned.space, planned.objectives, self._workspace, tuner)
            proposer = make_proposer(trials)
            if len(ended_trials(self._study)) < proposer.target:
                self._signals.open()
                try:
                    self._on_ray(trials, proposer)
                finally:
                    self._signals.close()
        if self._outage:
            raise SetupError(self._outage)
        report, ended = self._report(proposer.target), len(ended_trials(self._study))
        stopped = self._should_stop() and ended < proposer.target  # then nobody waits for what is drawn
        self._keep_trials(importances=not stopped)
        if not stopped:
            report = replace(report, figures=write_figures(self._study, planned.folder / "figures"))
            self._keep_pages()
        self._push()
        if stopped:
            raise SearchStopped(ended, proposer.target)
        if failure := proposer.failure():
            return replace(report, failure=failure)
        return report

    def _keep_trials(self, *, importances: bool) -> None:
        """Write all trials beside the report."""

        def write() -> None:
            trials, space = started_trials(self._study), self._planned.space
            record = build_record(self._study, trials, space, importances=importances)
            write_json(self._planned.folder / TRIALS, record.to_dict())

        keep_by_product(write, f"{TRIALS} of search {self._planned.folder.name}")

    def _keep_pages(self) -> None:
        """Write the pages of the best runs and of the search."""
        folder, direction = self._planned.folder, OBJECTIVES[self._planned.objectives[0]]
        complete = [trial for trial in started_trials(self._study) if trial.state == TrialState.COMPLETE]
        complete.sort(key=lambda trial: trial.values[0], reverse=direction == "maximize")
        keep_run_pages(
            [trial.user_attrs[RUN] for trial in complete[:_PAGES] if RUN in trial.user_attrs], self._workspace
        )
        keep_search_page(folder)

    def _report(self, target: int) -> SearchResult:
        """Return the state of the search, having written it beside the study and shown it."""
        report = build_report(
            self._study.study_name,
            started_trials(self._study),
            best_trials(self._study),
            self._planned.space,
            self._planned.objectives,
            target,
        )
        report = replace(
            report,
            images_made={
                "before the trials": self._study.user_attrs.get(IMAGES_MADE, 0),
                "by the trials": sum(trial.user_attrs.get(IMAGES_MADE, 0) for trial in ended_trials(self._study)),
            },
            directory=self._workspace.display_name(self._name),
            updated=time.time(),
        )
        write_search(report, self._planned.space, self._planned.folder)
        if time.monotonic() - self._last_push > _PUSH_SECONDS:
            self._push()
        self._show(report)
        return report

    def _report_amid_trials(self, target: int) -> None:
        """Report; where a disk, the store or the database refuses, let the trials save and end the search."""
        try:
            with storage_errors(self._study.study_name):
                self._report(target)
        except SetupError as error:
            self._note_outage(str(error))

    def _push(self) -> None:
        """Push study and report to the store; while trials go on, a store that does not answer has to wait."""
        self._workspace.push(self._name, World.alone())
        self._last_push = time.monotonic()

    def _on_ray(self, trials: StudyTrials, proposer: Proposer) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in _SETTINGS.items()})
        cluster, workers = self._cluster, max(1, self._cluster.worker_range[1])
        with connected(cluster, max(1, cluster.worker_range[0])):
            concurrent = room_for(cluster) // workers
            if concurrent < 1:
                raise SetupError(
                    f"cluster {cluster.name!r} has room for {room_for(cluster)} workers and a trial takes {workers}: "
                    "lower workers, cpus_per_worker or gpus_per_worker"
                )
            logger.info("%d trials of %d workers at a time", concurrent, workers)
            sources = shared_sources(self._planned.space)
            if sources:
                self._train_sources(sources)
            self._make_sets({run.run_id for run in sources})
            if not self._should_stop():
                with closing(self._watch):
                    self._tune(trials, proposer, concurrent, workers)

    def _train_sources(self, runs: list[Experiment]) -> None:
        outcomes = run_batch(
            runs,
            self._cluster,
            store=self._workspace.addresses[0],
            data_root=self._workspace.addresses[1],
            should_stop=self._should_stop,
            on_outcome=lambda run, outcome: None,
        )
        failed = [(run, outcome.reason) for run, outcome in outcomes.items() if outcome.result is None]
        if failed:
            raise RunFailed(f"run {failed[0][0]}, which the trials build on, failed: {failed[0][1]}")

    def _make_sets(self, finished: set[str]) -> None:
        """Make the frozen sets that all trials share, if the runs whose generators make them are ``finished``."""
        experiment, cluster = self._planned.space.make_experiment({}), self._cluster
        generators = {run.run_id for run in experiment.sources} & {images.run for images in experiment.image_sets}
        if self._should_stop() or not experiment.image_sets or not generators <= finished:
            return
        resources = {"num_cpus": cluster.cpus_per_worker, "num_gpus": cluster.gpus_per_worker}
        config = asdict(WorkerTask.of(experiment, cluster, self._workspace, self._signals))
        task = ray.remote(make_sets).options(max_retries=0, **resources).remote(config)
        while not ray.wait([task], timeout=_POLL_SECONDS)[0]:
            if self._should_stop():  # whole files stay, and the next command goes on behind them
                ray.cancel(task, force=True)
                return
        try:
            result = ray.get(task)
        except RayError as error:
            reason = f"{type(error).__name__}: {describe(error)}"
            raise RunFailed(
                f"the process that made the frozen sets died ({reason}); the same command goes on behind the last "
                "whole file"
            ) from None
        if "made" not in result:
            raise error_from_dict(result)
        made_before = self._study.user_attrs.get(IMAGES_MADE, 0)  # by this command before it was stopped
        self._study.set_user_attr(IMAGES_MADE, made_before + result["made"])

    def _tune(self, trials: StudyTrials, proposer: Proposer, concurrent: int, workers: int) -> None:
        cluster = self._cluster
        searcher = StudySearcher(
            trials,
            proposer,
            should_stop=self._is_stopping,
            make_config=self._make_config,
            on_outage=self._note_outage,
            on_taken_over=self._signals.give_up,
        )
        watcher = _Watcher(
            lambda: self._report_amid_trials(proposer.target), self._end_hung, lambda: what_is_free(cluster, workers)
        )
        worker = {"cpu": cluster.cpus_per_worker, "gpu": cluster.gpus_per_worker}
        # A trial of several workers has a process that only waits for them: it takes no CPU from them.
        resources = worker if workers == 1 else {"cpu": 0, HEAD_RESOURCE: 0.001}
        sweep_folders(Path(tempfile.gettempdir()), _SCRATCH)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch, held(Path(scratch)):
            logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # our report says what failed, and why
            tune.Tuner(
                tune.with_resources(run_trial, resources),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=make_scheduler(self._planned.space, self._planned.objectives[0], self._study),
                    num_samples=_ENDLESS,
                    max_concurrent_trials=concurrent,
                    reuse_actors=workers == 1,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[watcher],
                    failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
                ),
            ).fit()

    def _note_outage(self, reason: str) -> None:
        self._outage = self._outage or reason

    def _is_stopping(self) -> bool:
        """Tell whether the search is to stop; if so the trials are asked to save and stop, too."""
        stopping = self._should_stop() or self._outage is not None
        if stopping and not self._has_asked:
            try:
                self._signals.ask_to_stop()
                self._has_asked = True
            except SetupError as error:  # asked again at the next step
                self._note_outage(str(error))
        return stopping

    def _end_hung(self) -> None:
        """End trials that do not answer, as far as the cluster or a stop says so; under ``fail`` the others save."""
        stopping = self._is_stopping()
        hung = self._watch.look(stopping)
        if hung and self._cluster.on_hang == "fail" and not stopping:
            self._note_outage(f"{hung[0].worker.run}: {hung[0].line}; the same command continues")
        self._watch.end(hung)

    def _make_config(self, experiment: Experiment, segment: Segment) -> dict[str, Any]:
        """Return the fields of the TrialTask that a trial's process is given."""
        cluster, first = self._cluster, experiment.recipe.seed
        self._follow(experiment.with_seed(first + number) for number in range(self._planned.space.seeds))
        task = WorkerTask.of(experiment, cluster, self._workspace, self._signals, segment.end)
        # Only the driver touches the study, whose address may hold a password.
        joining = cluster.model_copy(update={"address": "auto", "study": None}).model_dump()
        return asdict(
            TrialTask(asdict(task), list(self._planned.objectives), joining, segment.begin, self._planned.space.seeds)
        )


class _Watcher(tune.Callback):  # type: ignore[misc]  # Ray is not typed here
    """Passes a stop on, writes the report as trials go on and end, and logs what Tune would be silent about."""

    def __init__(self, report: Callable[[], Any], look: Callable[[], Any], resources: Callable[[], str]) -> None:
        self._report, self._look, self._resources = report, look, resources
        self._last_report = self._fed = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing: Tune pickles its callbacks, and what shows the report may be a terminal."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Pass a stop on, see who hangs; report now and then; say what a trial that waits too long waits for."""
        self._look()
        waiting = sum(trial.status == Trial.PENDING for trial in trials)
        if not waiting:
            self._fed = time.monotonic()
        elif time.monotonic() - self._fed > _STARVING_SECONDS:
            self._fed = time.monotonic()  # said again after as long
            logger.warning("%d trial(s) wait for room: each needs %s", waiting, self._resources())
        if time.monotonic() - self._last_report > _REPORT_SECONDS:
            self._update_report()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report."""
        self._update_report()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that the process of a trial, or its node, is gone."""
        logger.warning("the process of %s died; it goes on from its last checkpoint", read_run_id(trial.config))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say which trial is given up, and report."""
        logger.warning("the process of %s died again; the trial counts as failed", read_run_id(trial.config))
        self._update_report()

    def _update_report(self) -> None:
        self._last_report = time.monotonic()
        self._report()
