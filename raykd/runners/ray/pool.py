"""The driver's side of parallel trials on Ray: start what is ready, restart what dies, record what ends."""

import logging
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from raykd.cluster.config import Cluster
from raykd.cluster.workers import fitting_workers
from raykd.distributed.world import World
from raykd.engine.stop import Interrupted
from raykd.errors import RaykdError, error_from_dict, error_to_dict
from raykd.files import write_text
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe
from raykd.results import RunResult
from raykd.runners.batch import BatchStopped, RunOutcome
from raykd.runners.ray.driver import run_on_ray
from raykd.runners.ray.session import connected, room_for
from raykd.runners.ray.signals import RunSignals
from raykd.runners.ray.worker import WorkerTask, after_others
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


class RunPool:
    """Trials that wait, trials at work, and how the others ended."""

    def __init__(
        self,
        cluster: Cluster,
        workspace: Workspace,
        waiting: Sequence[Experiment],
        outcomes: dict[str, RunOutcome],
        ended: Callable[[Experiment, RunOutcome], None],
    ) -> None:
        """Take over the runs to be done; ``outcomes`` holds those that are."""
        self._cluster, self._workspace, self._ended = cluster, workspace, ended
        self._outcomes = outcomes
        runs = {run.run_id: run for run in waiting}
        self._sources = {run_id: [source.run_id for source in run.sources] for run_id, run in runs.items()}
        needed = {source for sources in self._sources.values() for source in sources}
        # What others wait for goes first, then what takes longest, so that no long one is left for the end.
        order = sorted(runs, key=lambda run: (run not in needed, -_images(runs[run].recipe)))
        self._waiting = {run: runs[run] for run in order}
        self._working: dict[Any, tuple[str, Experiment]] = {}
        self._deaths: dict[str, int] = {}
        self._stopped = 0
        self._signals = RunSignals(workspace.addresses[0], f"trials-{uuid.uuid4().hex[:8]}")

    def run(self, should_stop: Callable[[], bool]) -> dict[str, RunOutcome]:
        """Work until all have ended or a stop was asked for; see ``run_trials``."""
        workers = max(1, self._cluster.worker_range[1])
        self._signals.open()
        try:
            with connected(self._cluster, max(1, self._cluster.worker_range[0])):
                places = max(1, room_for(self._cluster) // workers)
                logger.info("%d runs to do, %d at a time", len(self._waiting), places)
                while self._waiting or self._working:
                    stopping = should_stop()
                    if stopping:
                        self._signals.ask_to_stop()
                        if not self._working:
                            break
                    else:
                        self._start(places)
                    self._collect()
        finally:
            self._signals.close()
        if self._waiting or self._stopped:
            finished = sum(ended.result is not None for ended in self._outcomes.values())
            total = len(self._outcomes) + len(self._waiting) + self._stopped
            raise BatchStopped(finished, self._stopped, total)
        return self._outcomes

    def _start(self, places: int) -> None:
        for name, run in list(self._waiting.items()):
            sources = {source: self._outcomes.get(source) for source in self._sources[name]}
            failed = [source for source, ended in sources.items() if ended and ended.result is None]
            if failed:
                del self._waiting[name]
                self._record(name, run, RunOutcome(None, f"not run: {failed[0]}, which it builds on, failed"))
            elif len(self._working) < places and all(sources.values()):
                del self._waiting[name]
                self._working[self._submit(run)] = name, run

    def _submit(self, run: Experiment) -> Any:
        cluster = self._cluster
        task = asdict(WorkerTask.of(run, cluster, self._workspace, self._signals))
        if cluster.worker_range[1] > 1:
            together = cluster.model_copy(update={"address": "auto"}).model_dump()
            return ray.remote(_train_together).options(num_cpus=0, max_retries=0).remote(task, together)
        resources = {"num_cpus": cluster.cpus_per_worker, "num_gpus": cluster.gpus_per_worker}
        return ray.remote(_train_alone).options(max_retries=0, **resources).remote(task)

    def _collect(self) -> None:
        """Wait a moment for trials to end and record how they did."""
        if not self._working:  # what was left builds on what failed
            return
        done, _ = ray.wait(list(self._working), timeout=_POLL_SECONDS)
        for trial in done:
            name, run = self._working.pop(trial)
            try:
                outcome = ray.get(trial)
            except RayError as error:
                self._died(name, run, error)
                continue
            if "result" in outcome:
                self._record(name, run, RunOutcome(RunResult.from_dict(outcome["result"])))
                continue
            failure = error_from_dict(outcome)
            if isinstance(failure, Interrupted):
                self._stopped += 1
            else:
                self._record(name, run, RunOutcome(None, str(failure)))

    def _died(self, name: str, run: Experiment, error: Exception) -> None:
        deaths = self._deaths[name] = self._deaths.get(name, 0) + 1
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        reason = f"{type(error).__name__}: {told[:200]}"
        if isinstance(error, RayTaskError) or deaths > self._cluster.max_failures:
            self._record(name, run, RunOutcome(None, f"its process died {deaths} times ({reason})"))
            return
        logger.warning("the process of %s died (%s); starting it again", name, reason)
        self._waiting = {name: run, **self._waiting}

    def _record(self, name: str, run: Experiment, ended: RunOutcome) -> None:
        self._workspace.pull([name], World.alone(), checkpoints="none")
        self._outcomes[name] = ended
        self._ended(run, ended)


def _images(recipe: Recipe) -> int:
    return recipe.schedule.steps * recipe.schedule.global_batch


def _train_alone(config: dict[str, Any]) -> dict[str, Any]:
    """Run a trial in this process; return its result, or an error as data."""
    task = WorkerTask(**config)
    task.enter_working_dir()
    return _answered(task, lambda: task.run(task.resolved))


def _train_together(config: dict[str, Any], cluster: dict[str, Any]) -> dict[str, Any]:
    """Run a trial as a Ray Train run of several workers; return its result, or an error as data."""
    task, place = WorkerTask(**config), Cluster.model_validate(cluster)
    task.enter_working_dir()
    run, stopping = task.resolved, task.signals.stop_asked_for
    return _answered(task, lambda: run_on_ray(run, place, task.workspace, fitting_workers(run, place), stopping))


def _answered(task: WorkerTask, train: Callable[[], RunResult]) -> dict[str, Any]:
    try:
        return {"result": after_others(train, task.signals.stop_asked_for).to_dict()}
    except RaykdError as error:
        return error_to_dict(error)
    except Exception as error:  # a fault of ours must not take the other trials with it
        log = task.workspace.run(task.resolved.run_id).error_log
        write_text(log, traceback.format_exc())
        return error_to_dict(RaykdError(f"{type(error).__name__}: {error}; the traceback is in {log}"))
