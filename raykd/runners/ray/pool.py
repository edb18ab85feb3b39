"""The driver's side of a batch on Ray: start runs that are ready, restart those that die, record those that end."""

import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from raykd.cluster.config import Cluster
from raykd.cluster.workers import fitting_workers
from raykd.distributed.world import World
from raykd.engine.stop import Interrupted
from raykd.errors import RaykdError, SetupError, error_from_dict, error_to_dict
from raykd.files import of_the_disk
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe
from raykd.results import RunResult
from raykd.runners.outcome import BatchStopped, RunOutcome
from raykd.runners.ray.driver import run_on_ray
from raykd.runners.ray.heartbeat import WorkerWatch
from raykd.runners.ray.session import connected, room_for
from raykd.runners.ray.signals import RunSignals
from raykd.runners.ray.worker import WorkerTask, after_others, describe_fault
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


class RunPool:
    """Runs that wait for others or for room, runs at work, and the outcomes of all others."""

    def __init__(
        self,
        cluster: Cluster,
        workspace: Workspace,
        waiting: Sequence[Experiment],
        outcomes: dict[str, RunOutcome],
        on_outcome: Callable[[Experiment, RunOutcome], None],
    ) -> None:
        """Take the runs to be done; ``outcomes`` holds those of runs that have ended, and gets the others."""
        self._cluster, self._workspace, self._on_outcome = cluster, workspace, on_outcome
        self._outcomes = outcomes
        runs = {run.run_id: run for run in waiting}
        self._sources = {run_id: [source.run_id for source in run.sources] for run_id, run in runs.items()}
        needed = {source for sources in self._sources.values() for source in sources}
        # Runs that others wait for go first, then the longest ones, so that no long one is left for the end.
        order = sorted(runs, key=lambda run_id: (run_id not in needed, -_count_images(runs[run_id].recipe)))
        self._waiting = {run_id: runs[run_id] for run_id in order}
        self._working: dict[Any, tuple[str, Experiment]] = {}
        self._deaths: dict[str, int] = {}
        self._given_up: dict[str, str] = {}
        self._stopped = 0
        self._outage: SetupError | None = None
        self._signals = RunSignals(workspace.addresses[0], f"trials-{uuid.uuid4().hex[:8]}")

    def run(self, should_stop: Callable[[], bool]) -> dict[str, RunOutcome]:
        """Work until all have ended or a stop was asked for; see ``raykd.runners.batch.run_batch``."""
        workers = max(1, self._cluster.worker_range[1])
        self._signals.open()
        try:
            with (
                connected(self._cluster, max(1, self._cluster.worker_range[0])),
                closing(WorkerWatch(self._signals.job, self._cluster)) as watch,
            ):
                concurrent = max(1, room_for(self._cluster) // workers)
                logger.info("%d runs to do, %d at a time", len(self._waiting), concurrent)
                while self._waiting or self._working:
                    stopping = self._outage is not None or should_stop()
                    self._end_hung(watch, stopping)
                    if stopping:
                        self._ask_to_stop()
                        if not self._working:
                            break
                    else:
                        self._start(concurrent)
                    self._collect()
        finally:
            self._signals.close()
        if self._outage is not None:
            raise self._outage
        if self._waiting or self._stopped:
            finished = sum(outcome.result is not None for outcome in self._outcomes.values())
            total = len(self._outcomes) + len(self._waiting) + self._stopped
            raise BatchStopped(finished, self._stopped, total)
        return self._outcomes

    def _start(self, concurrent: int) -> None:
        """Start runs whose sources are there while there is room; give up those whose sources failed."""
        for run_id, run in list(self._waiting.items()):
            sources = {source: self._outcomes.get(source) for source in self._sources[run_id]}
            failed = [source for source, outcome in sources.items() if outcome and outcome.result is None]
            if failed:
                del self._waiting[run_id]
                self._record(run_id, run, RunOutcome(None, f"not run: {failed[0]}, which it builds on, failed"))
            elif len(self._working) < concurrent and all(sources.values()):
                del self._waiting[run_id]
                self._working[self._submit(run)] = run_id, run

    def _submit(self, run: Experiment) -> Any:
        cluster = self._cluster
        task = asdict(WorkerTask.of(run, cluster, self._workspace, self._signals))
        if cluster.worker_range[1] > 1:
            joining = cluster.model_copy(update={"address": "auto"}).model_dump()
            return ray.remote(_train_by_workers).options(num_cpus=0, max_retries=0).remote(task, joining)
        resources = {"num_cpus": cluster.cpus_per_worker, "num_gpus": cluster.gpus_per_worker}
        return ray.remote(_train_alone).options(max_retries=0, **resources).remote(task)

    def _collect(self) -> None:
        """Wait a moment for runs to end, and record their outcomes."""
        if not self._working:  # all that waited built on runs that failed
            return
        finished, _ = ray.wait(list(self._working), timeout=_POLL_SECONDS)
        for task in finished:
            run_id, run = self._working.pop(task)
            try:
                answer = ray.get(task)
            except RayError as error:
                if run_id in self._given_up:  # which is no fault of the run
                    self._workspace.note_end(run_id, self._given_up[run_id], "interrupted")
                    self._stopped += 1
                else:
                    self._restart(run_id, run, error)
                continue
            if "result" in answer:
                self._record(run_id, run, RunOutcome(RunResult.from_dict(answer["result"])))
                continue
            failure = error_from_dict(answer)
            if isinstance(failure, Interrupted):
                self._stopped += 1
            elif isinstance(failure, SetupError):  # not the run's fault: mended, the same command goes on with it
                self._outage = self._outage or SetupError(f"run {run_id}: {failure}")
            else:
                self._record(run_id, run, RunOutcome(None, str(failure)))

    def _restart(self, run_id: str, run: Experiment, error: Exception) -> None:
        """Let a run whose process died wait first in line, or record it as failed if it has died too often."""
        deaths = self._deaths[run_id] = self._deaths.get(run_id, 0) + 1
        first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        reason = f"{type(error).__name__}: {first_line[:200]}"
        if isinstance(error, RayTaskError) or deaths > self._cluster.max_failures:
            told = f"its process died {deaths} times ({reason})"
            self._workspace.note_end(run_id, told)
            self._record(run_id, run, RunOutcome(None, told))
            return
        logger.warning("the process of %s died (%s); starting it again", run_id, reason)
        self._waiting = {run_id: run, **self._waiting}

    def _record(self, run_id: str, run: Experiment, outcome: RunOutcome) -> None:
        self._outcomes[run_id] = outcome
        try:
            self._workspace.pull([run_id], World.alone(), checkpoints="none")
            self._on_outcome(run, outcome)
        except SetupError as error:  # a full disk, a store that is gone: those at work save before it is raised
            self._outage = self._outage or error

    def _end_hung(self, watch: WorkerWatch, stopping: bool) -> None:
        """End runs that do not answer, as far as the cluster or a stop says so; under ``fail`` the others save."""
        hung = watch.look(stopping)
        if hung and self._cluster.on_hang == "fail" and self._outage is None and not stopping:
            self._outage = SetupError(f"{hung[0].worker.run}: {hung[0].line}; the same command continues")
        if stopping or self._outage is not None:
            self._given_up |= {each.worker.run: each.line for each in hung}
        watch.end(hung)

    def _ask_to_stop(self) -> None:
        try:
            self._signals.ask_to_stop()
        except SetupError as error:
            raise (self._outage or error) from None


def _count_images(recipe: Recipe) -> int:
    """Return how many images a run trains on, repeats counted: what its duration goes by, other things equal."""
    return recipe.schedule.steps * recipe.schedule.global_batch


def _train_alone(config: dict[str, Any]) -> dict[str, Any]:
    """Train a run in this process; return its result, or an error as data."""
    task = WorkerTask(**config)
    task.enter_working_dir()
    return _return_errors(task, lambda: task.run(task.resolved))


def _train_by_workers(config: dict[str, Any], cluster_fields: dict[str, Any]) -> dict[str, Any]:
    """Train a run by several workers of Ray Train; return its result, or an error as data."""
    task, cluster = WorkerTask(**config), Cluster.model_validate(cluster_fields)
    task.enter_working_dir()
    run, stop = task.resolved, task.signals.stop_asked_for
    return _return_errors(task, lambda: run_on_ray(run, cluster, task.workspace, fitting_workers(run, cluster), stop))


def _return_errors(task: WorkerTask, train: Callable[[], RunResult]) -> dict[str, Any]:
    """Train, once no other process is at the same run; return the result, or an error as data that Ray can carry."""
    try:
        return {"result": after_others(train, task.signals.stop_asked_for).to_dict()}
    except RaykdError as error:
        return error_to_dict(error)
    except Exception as error:  # a fault of ours must not take the other runs with it
        return error_to_dict(of_the_disk(error) or RaykdError(describe_fault(task, error)))
