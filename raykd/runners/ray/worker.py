"""What happens inside one Ray Train worker: the engine's run, with a reporter that Ray hears too."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
import ray.train

from raykd.cluster.config import Cluster
from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.reporter import LocalReporter
from raykd.engine.stop import Interrupted
from raykd.errors import InProgress, RaykdError, SetupError, WorkerFailed, error_to_dict
from raykd.files import of_the_disk
from raykd.recipe.experiment import Experiment, experiment_from_dict
from raykd.results import RunResult
from raykd.runners.local import MakeReporter, run_here
from raykd.runners.ray.heartbeat import Heartbeat, beat_seconds
from raykd.runners.ray.signals import RunSignals
from raykd.store.checkpoint import Checkpoint
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace, open_workspace

_SETTLING_SECONDS = 5.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class WorkerTask:
    """What a worker is given, all of it plain data; paths are absolute, or addresses, and the same on every node."""

    experiment: Mapping[str, Any]
    runtime: Mapping[str, Any]
    store: str
    data_root: str | None
    working_directory: str
    job_id: str
    beat_seconds: float
    until: int | None = None

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        cluster: Cluster,
        workspace: Workspace,
        signals: RunSignals,
        until: int | None = None,
    ) -> "WorkerTask":
        """Return the task of a worker of ``cluster``: to train ``until`` a step; called in the driver's directory."""
        store, data_root = workspace.addresses
        threads = cluster.threads or max(1, int(cluster.cpus_per_worker))
        return cls(
            experiment=experiment.to_dict(),
            runtime=cluster.runtime.model_copy(update={"threads": threads}).model_dump(),
            store=store,
            data_root=data_root,
            working_directory=str(Path.cwd()),
            job_id=signals.job,
            beat_seconds=beat_seconds(cluster),
            until=until,
        )

    def enter_working_dir(self) -> None:
        """Chdir to the driver's directory if this node has it: a recipe's weights and factories may be relative."""
        with suppress(OSError):
            os.chdir(self.working_directory)

    @cached_property
    def resolved(self) -> Experiment:
        """Return the experiment as the driver resolved it; no name is looked up here."""
        return experiment_from_dict(self.experiment)

    @cached_property
    def workspace(self) -> Workspace:
        """Return where runs and data are on this node."""
        return open_workspace(self.store, self.data_root, known=True)

    @cached_property
    def signals(self) -> RunSignals:
        """Return the signals between the driver and the workers."""
        return RunSignals(self.store, self.job_id)

    def run(self, experiment: Experiment, make_reporter: MakeReporter | None = None) -> RunResult:
        """Run an experiment, the task's own or another of its seeds, in this process; see ``run_here``."""
        # In a process of no Ray, which asking who it is would start, nobody would hear it.
        alive = Heartbeat(self.job_id, experiment.run_id, self.beat_seconds) if ray.is_initialized() else nullcontext()
        with alive:
            return run_here(
                experiment,
                self.workspace,
                Runtime.model_validate(self.runtime),
                should_stop=self.signals.stop_asked_for,
                make_reporter=make_reporter,
                until=self.until,
            )

    def as_config(self) -> dict[str, Any]:
        """Return the dictionary that Ray carries to the workers."""
        return asdict(self)


class RayReporter:
    """Writes the run directory as a local run does, and tells Ray Train the metrics.

    Checkpoints stay the engine's own: what is on the disk counts at once, whereas Ray forgets a checkpoint that its
    controller had not polled before a worker died, and local runs and Ray runs can continue each other.
    """

    def __init__(self, run: RunDirectory, world: World, task: WorkerTask) -> None:
        """Write into the directory of ``run``, in the task's store."""
        self._local = LocalReporter(run, task.signals.stop_asked_for, world, task.workspace.mirror)

    def report(self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint) -> None:
        """Write (which fails on all workers or on none), then let Ray know of the metrics.

        Ray's report is a barrier, so it is called by what all workers know alike: whether there are metrics.
        """
        self._local.report(metrics, checkpoint)
        if metrics is not None:
            ray.train.report({name: float(value) for name, value in metrics.items()})

    def resume_from(self, before: int | None = None) -> Path | None:
        """Return the newest whole checkpoint of the run directory, of an earlier step than ``before``."""
        return self._local.resume_from(before)

    def stop_requested(self) -> bool:
        """Tell whether the driver has asked for a stop."""
        return self._local.stop_requested()

    def note_step(self, done: int) -> None:
        """Write step and pace into the run's status."""
        self._local.note_step(done)


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Run the task on this worker; return ``{"result": ...}`` or, for what Ray must not retry, an error as data."""
    task = WorkerTask(**config)
    recorded = task.signals.failures()
    if recorded:
        return recorded[0]
    task.enter_working_dir()
    try:
        return {"result": task.run(task.resolved, lambda run, world: RayReporter(run, world, task)).to_dict()}
    except WorkerFailed:
        raise  # the other worker raises too, and Ray starts all of them anew
    except (RaykdError, OSError) as error:
        told = error if isinstance(error, RaykdError) else of_the_disk(error)
        if told is None:
            raise
        return answer_for(task.signals, World.current(), told)


def describe_fault(task: WorkerTask, error: Exception) -> str:
    """Say in one line what a fault of ours is, and where its traceback: beside the task's run."""
    message = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {message}; {task.workspace.run(task.resolved.run_id).write_error_log(error)}"


def after_others(train: Callable[[], RunResult], asked_to_stop: Callable[[], bool]) -> RunResult:
    """Train once nobody else is at the same run, such as a trial of equal values, whose result is this one's too.

    Raises:
        Interrupted: if a stop was asked for before that.
    """
    while True:
        try:
            return train()
        except InProgress:
            if asked_to_stop():
                raise Interrupted(0, 0) from None
            time.sleep(_POLL_SECONDS)


def answer_for(signals: RunSignals, world: World, error: RaykdError) -> dict[str, Any]:
    """Return the error once every worker has failed; if some go on, raise it.

    Those would wait for this one in a collective until its timeout. An exception makes Ray end them and start anew,
    and then everybody returns what is recorded here.
    """
    failure = error_to_dict(error)
    try:
        signals.record(world.rank, failure)
    except SetupError:  # a full disk, or no store: then the others have failed at the same write
        return failure
    deadline = time.monotonic() + _SETTLING_SECONDS
    while time.monotonic() < deadline:
        if len(signals.failures()) == world.size:
            return failure
        time.sleep(0.05)
    raise error
