"""Reporter: the only port outward. LocalReporter writes the run directory.

recipe.yaml environment.json metrics.jsonl status.json tensorboard/ samples/ checkpoints/ student.safetensors bank/
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from raykd.engine.bank import write_products
from raykd.engine.checkpoint import Checkpoint, latest_checkpoint, write_checkpoint, write_shard, write_text
from raykd.errors import SetupError
from raykd.parallel import World

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Where a run tells the world how it goes. Called on every worker, the same number of times."""

    def report(self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint) -> None:
        """Publish metrics (None: only a checkpoint) and the checkpoint, of which each worker brings its part."""

    def resume_from(self) -> Path | None:
        """Return the checkpoint to go on from."""

    def stop_requested(self) -> bool:
        """Tell whether somebody has asked the run to save and stop (asked of rank 0 only)."""


class LocalReporter:
    """Writes the run directory: on rank 0 what workers share, on each what it alone holds."""

    def __init__(
        self,
        directory: Path,
        should_stop: Callable[[], bool] = lambda: False,
        world: World | None = None,
    ) -> None:
        """Write into ``directory``; ``should_stop`` is asked about twice a second, on rank 0."""
        self._directory = directory
        self._should_stop = should_stop
        self._world = world or World.alone()
        self._tensorboard: Any = None

    def report(self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint) -> None:
        """Write the metrics, then the checkpoint: killed in between, a resumed run drops the line again.

        Raises:
            SetupError: on all workers, if a disk does not take it; the checkpoint before is intact.
        """
        folder, shards, problem = self._directory / "checkpoints", {}, None
        try:
            if checkpoint.products:
                write_products(self._directory, checkpoint.products)
            shards = write_shard(folder, checkpoint, self._world.rank)
        except (OSError, SafetensorError) as error:
            problem = self._told(error)
        parts = self._world.gather_objects((shards, problem))
        problem = next((told for _, told in parts if told), None)
        if problem is None and self._world.rank == 0:
            try:
                if metrics is not None:
                    self._write_metrics(metrics, checkpoint)
                write_checkpoint(folder, checkpoint, {name: one for sums, _ in parts for name, one in sums.items()})
                write_status(self._directory, state="running", step=checkpoint.step)
            except OSError as error:
                problem = self._told(error)
            except SetupError as error:
                problem = str(error)
        problem = self._world.broadcast(problem)
        if problem:
            raise SetupError(problem)

    def _told(self, error: Exception) -> str:
        return (
            f"could not write into run directory {self._directory.name} ({error}); free some space or "
            "mend the storage, then run the same command"
        )

    def resume_from(self) -> Path | None:
        """Return the newest whole checkpoint."""
        return latest_checkpoint(self._directory / "checkpoints")

    def stop_requested(self) -> bool:
        """Tell whether a stop was asked for."""
        return self._should_stop()

    def _write_metrics(self, metrics: Mapping[str, float], checkpoint: Checkpoint) -> None:
        with (self._directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint without its line could not be mended
        if checkpoint.samples is not None:
            folder = self._directory / "samples"
            folder.mkdir(exist_ok=True)
            (folder / f"step_{checkpoint.step:07d}.png").write_bytes(checkpoint.samples)
        self._write_tensorboard(metrics, checkpoint.step)

    def _write_tensorboard(self, metrics: Mapping[str, float], step: int) -> None:
        if self._tensorboard is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._tensorboard = False
                logger.info("tensorboard is not installed; metrics.jsonl has the curves")
            else:
                self._tensorboard = SummaryWriter(self._directory / "tensorboard")
        if self._tensorboard:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()


def rewind_metrics(directory: Path, step: int) -> None:
    """Drop the lines after ``step``: a resumed run writes them again, and no step may appear twice."""
    path = directory / "metrics.jsonl"
    if path.is_file():
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the last line of a killed process may be cut off
                continue
            if row["step"] <= step:
                kept.append(json.dumps(row) + "\n")
        write_text(path, "".join(kept))


def write_status(directory: Path, **fields: Any) -> None:
    """Merge fields into status.json: state (running, interrupted, failed, finished), step, result."""
    status = {**read_status(directory), **fields, "updated": time.time()}
    write_text(directory / "status.json", json.dumps(status, indent=1))


def read_status(directory: Path) -> dict[str, Any]:
    """Return status.json, or an empty dict where there is none yet."""
    try:
        status: dict[str, Any] = json.loads((directory / "status.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return status
