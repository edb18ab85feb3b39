"""The driver's side of a run on Ray: start Ray Train, pass on a wish to stop, say in one line what went wrong."""

import logging
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import closing, suppress
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.engine.stop import Interrupted, TakenOver
from raykd.errors import RaykdError, RunFailed, SetupError, error_from_dict, error_to_dict
from raykd.files import of_the_disk, system_error
from raykd.recipe.experiment import Experiment
from raykd.results import RunResult
from raykd.runners.ray.heartbeat import HungWorker, WorkerWatch
from raykd.runners.ray.internals import ElasticTrainer
from raykd.runners.ray.session import connected
from raykd.runners.ray.signals import RunSignals
from raykd.runners.ray.worker import WorkerTask, work
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_CONTROLLER_LIVES = 3
_POLL_SECONDS = 0.2
_COLLECTIVE_SECONDS = 600
_RESIZE_SECONDS = 60.0
_ENDING_SECONDS = 60.0
_LOGS = "logs: session_latest/logs/train in Ray's folder (/tmp/ray) of the worker's node"


class _WorkersDied(RunFailed):
    """No worker has left an error: their processes ended, or never began."""


def run_on_ray(
    experiment: Experiment,
    cluster: Cluster,
    workspace: Workspace,
    fitting: list[int],
    should_stop: Callable[[], bool],
    until: int | None = None,
) -> RunResult:
    """Run ``raykd.engine.run.run`` on as many of the ``fitting`` numbers of workers as there is room for.

    Raises:
        RaykdError: the workers' own, in its class, or RunFailed if they kept dying.
    """
    job_id = f"{experiment.run_id}-{uuid.uuid4().hex[:6]}"
    for life in range(1, _CONTROLLER_LIVES + 1):
        # Not the run's directory, and never the same twice: Ray goes on with what it finds under a known name.
        signals = RunSignals(workspace.addresses[0], f"{job_id}-{life}")
        signals.open()
        try:
            # A connection of its own, whose end frees what a dead controller has left reserved.
            with connected(cluster, fitting[0]), closing(WorkerWatch(signals.job, cluster)) as watch:
                task = WorkerTask.of(experiment, cluster, workspace, signals, until)
                fitted = _start(_trainer(task, cluster, fitting, signals).fit)
                hung = _wait(fitted, signals, should_stop, watch, cluster.on_hang == "fail")
                if hung:
                    stopping = _pass_on(should_stop, signals)
                    raise _end_without(hung, stopping, fitted, signals, watch, workspace, experiment.run_id)
                result = _outcome(fitted, signals)
            workspace.pull([experiment.run_id], World.alone(), checkpoints="none")
            return result
        except _WorkersDied as error:
            workspace.note_end(experiment.run_id, str(error))
            raise
        except (RayActorError, OutOfMemoryError) as error:
            logger.warning("Ray's controller died (%s); starting it again", _last_line(error))
        finally:
            signals.close()
    reason = f"Ray's controller died {_CONTROLLER_LIVES} times; {_LOGS}. The same command continues"
    workspace.note_end(experiment.run_id, reason)
    raise RunFailed(reason)


def _trainer(task: WorkerTask, cluster: Cluster, fitting: list[int], signals: RunSignals) -> ElasticTrainer:
    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    if len(fitting) > 1:
        logger.info("elastic: one of %s workers, as many as there is room for", fitting)
    return ElasticTrainer(
        work,
        fitting=fitting,
        train_loop_config=task.as_config(),
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=fitting[0] if len(fitting) == 1 else (fitting[0], fitting[-1]),
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=_RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            # Ray keeps its own record there, which its controller, on this node, reads: our checkpoints are not Ray's.
            name=signals.here.name,
            storage_path=str(signals.here.parent),
            failure_config=FailureConfig(max_failures=cluster.max_failures, controller_failure_limit=_CONTROLLER_LIVES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _start(fit: Callable[[], Any]) -> "Future[Any]":
    """Call ``fit`` in a thread, where Ray leaves the signal handlers alone."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(fit())
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            future.set_exception(error)

    threading.Thread(target=call, name="ray-train-fit", daemon=True).start()
    return future


def _wait(
    fitted: "Future[Any]", signals: RunSignals, should_stop: Callable[[], bool], watch: WorkerWatch, fails: bool
) -> list[HungWorker]:
    """Wait for the end, passing on a wish to stop; return the workers, if any, without which the run is to end."""
    while not wait_for([fitted], timeout=_POLL_SECONDS).done:
        stopping = _pass_on(should_stop, signals)
        hung = watch.look(stopping)
        if hung and (stopping or fails):
            return hung
        watch.end(hung)  # and Ray starts the workers anew
    return []


def _pass_on(should_stop: Callable[[], bool], signals: RunSignals) -> bool:
    """Tell whether the run is to end, and pass that on to its workers."""
    try:
        if stopping := should_stop():
            signals.ask_to_stop()
    except TakenOver:
        signals.give_up()
        return True
    return stopping


def _end_without(
    hung: list[HungWorker],
    stopping: bool,
    fitted: "Future[Any]",
    signals: RunSignals,
    watch: WorkerWatch,
    workspace: Workspace,
    run_id: str,
) -> RaykdError:
    """End a run that cannot save for want of an answer; return what to raise."""
    with suppress(SetupError):
        workspace.pull([run_id], World.alone(), checkpoints="none")
    status = workspace.run(run_id).status()
    error: RaykdError = SetupError(f"{hung[0].line}; the same command continues from the last checkpoint")
    if stopping:
        error = Interrupted(status.get("step", 0), status.get("steps", 0))
    signals.record(0, error_to_dict(error))  # the workers that Ray starts anew read it, and end
    watch.end(hung)
    wait_for([fitted], timeout=_ENDING_SECONDS)
    workspace.note_end(run_id, str(error), "interrupted" if stopping else "failed")
    return error


def _outcome(fitted: "Future[Any]", signals: RunSignals) -> RunResult:
    """Return the result of training that has ended, or raise what the workers meant."""
    try:
        outcome: dict[str, Any] = fitted.result().return_value
    except TrainingFailedError as error:
        recorded = signals.failures()
        if recorded:
            raise error_from_dict(recorded[0]) from None
        number = system_error(str(error))
        if number and (refused := of_the_disk(OSError(number, os.strerror(number)))):
            raise refused from None
        raise _WorkersDied(f"{_cause(error)}; {_LOGS}. The same command continues") from None
    if "error" in outcome:
        raise error_from_dict(outcome)
    return RunResult.from_dict(outcome["result"])


def _cause(error: TrainingFailedError) -> str:
    """Name what the workers died of, one phrase for each different end."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return f"Ray could not run the workers: {_last_line(getattr(error, 'controller_failure', error))}"
    ends: dict[str, list[int]] = {}
    for rank, failure in sorted(failures.items()):
        ends.setdefault(_last_line(failure), []).append(rank)
    told = "; ".join(f"worker {', '.join(map(str, ranks))}: {end}" for end, ranks in ends.items())
    return f"the workers kept dying ({told})"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
