"""What happens inside one Ray Train worker: the engine's run, with a reporter that Ray hears too."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train

from raykd.cluster.config import Cluster
from raykd.config import Runtime
from raykd.engine.build import Roots
from raykd.engine.checkpoint import Checkpoint, write_text
from raykd.engine.host import prepare_host
from raykd.engine.report import LocalReporter
from raykd.engine.run import Place, run
from raykd.errors import RaykdError
from raykd.parallel import World
from raykd.recipe import Recipe, recipe_from_dict

STOP_FILE = "stop-request"
_SETTLING_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """What a worker is told, all of it plain data; paths are absolute and the same on every node."""

    recipe: Mapping[str, Any]
    runtime: Mapping[str, Any]
    threads: int
    store: str
    data_root: str | None
    working_directory: str
    control: str
    until: int | None = None

    @classmethod
    def of(cls, recipe: Recipe, cluster: Cluster, roots: Roots, control: Path, until: int | None = None) -> "Job":
        """Return what a worker of ``cluster`` is told to train, ``until`` a step; called in the driver's directory."""
        return cls(
            recipe=recipe.model_dump(mode="json"),
            runtime=cluster.runtime.model_dump(),
            threads=cluster.threads or max(1, int(cluster.cpus_per_worker)),
            store=str(roots.store),
            data_root=str(roots.data) if roots.data else None,
            working_directory=str(Path.cwd()),
            control=str(control),
            until=until,
        )

    def as_config(self) -> dict[str, Any]:
        """Return the dictionary that Ray carries to the workers."""
        return asdict(self)


class RayReporter:
    """Writes the run directory as a local run does, and tells Ray Train the metrics.

    Checkpoints stay the engine's own: what is on the disk counts at once, whereas Ray forgets a checkpoint that its
    controller had not polled before a worker died, and local runs and Ray runs can continue each other.
    """

    def __init__(self, directory: Path, world: World, stop_file: Path) -> None:
        """Write into ``directory``; a file at ``stop_file`` asks to stop."""
        self._local = LocalReporter(directory, stop_file.exists, world)

    def report(self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint) -> None:
        """Write (which fails on all workers or on none), then let Ray know of the metrics.

        Ray's report is a barrier, so it is called by what all workers know alike: whether there are metrics.
        """
        self._local.report(metrics, checkpoint)
        if metrics is not None:
            ray.train.report({name: float(value) for name, value in metrics.items()})

    def resume_from(self) -> Path | None:
        """Return the newest whole checkpoint of the run directory."""
        return self._local.resume_from()

    def stop_requested(self) -> bool:
        """Tell whether the driver has asked for a stop."""
        return self._local.stop_requested()


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Run the job on this worker; return ``{"result": ...}`` or, for what Ray must not retry, an error as data."""
    job = Job(**config)
    control = Path(job.control)
    failure = recorded_error(control)
    if failure is not None:
        return failure
    # Relative names in a recipe mean the driver's directory, where it exists.
    with suppress(OSError):
        os.chdir(job.working_directory)
    prepare_host(job.threads)
    runtime = Runtime.model_validate(job.runtime)
    world = World.current(runtime.precision)
    roots = Roots(Path(job.data_root) if job.data_root else None, Path(job.store))
    stop_file = control / STOP_FILE
    place = Place(world, roots, runtime, lambda directory: RayReporter(directory, world, stop_file), until=job.until)
    try:
        return {"result": run(recipe_from_dict(job.recipe), place)}
    except RaykdError as error:
        return _settle(control, world, error)


def pack_error(error: RaykdError) -> dict[str, Any]:
    """Return an error as plain data."""
    return {"error": type(error).__name__, "message": str(error)}


def unpack_error(failure: Mapping[str, Any]) -> RaykdError:
    """Return the error that ``pack_error`` packed, in its own class."""
    kinds = {kind.__name__: kind for kind in _kinds(RaykdError)}
    kind = kinds.get(failure["error"], RaykdError)
    # Not through __init__, whose arguments are the class's own affair; the message is complete.
    return kind.__new__(kind, failure["message"])


def recorded_error(control: Path) -> dict[str, Any] | None:
    """Return an error that a worker has left behind, or None."""
    for path in sorted(control.glob("error-*.json")):
        failure: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return failure
    return None


def _settle(control: Path, world: World, error: RaykdError) -> dict[str, Any]:
    """Return the error once every worker has failed; if some go on, raise it.

    Those would wait for this one in a collective until its timeout. An exception makes Ray end them and start anew,
    and then everybody returns what is recorded here.
    """
    failure = pack_error(error)
    try:
        write_text(control / f"error-{world.rank}.json", json.dumps(failure))
    except OSError:  # a full disk: then the others have failed at the same write
        return failure
    deadline = time.monotonic() + _SETTLING_SECONDS
    while time.monotonic() < deadline:
        if len(list(control.glob("error-*.json"))) == world.size:
            return failure
        time.sleep(0.05)
    raise error


def _kinds(kind: type[RaykdError]) -> list[type[RaykdError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _kinds(child))]
