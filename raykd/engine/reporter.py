"""Reporter: how a run hands out metrics and checkpoints. LocalReporter writes the run directory."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from raykd.artifacts.bank import product_path, write_products
from raykd.artifacts.pool_files import part_path, write_part
from raykd.distributed.phases import rounded
from raykd.distributed.world import World
from raykd.errors import RaykdError, SetupError
from raykd.results import why_not_judged
from raykd.store.checkpoint import (
    Checkpoint,
    Sums,
    latest_checkpoint,
    pool_files,
    shard_path,
    step_name,
    write_checkpoint,
    write_shard,
)
from raykd.store.mirror import Mirror
from raykd.store.run_directory import CHECKPOINTS, DATA, ENVIRONMENT, EXPERIMENT, METRICS, RECIPE, STATUS, RunDirectory

if TYPE_CHECKING:
    from raykd.store.curves import CurveFile

logger = logging.getLogger(__name__)

_NOTE_SECONDS = 2.0  # between two notes of the step
_NOTE_SHARE = 0.002  # of a run's time that they may take
_SEND_SECONDS = 10.0  # between two of these that are sent to a store elsewhere
_OPENING = (EXPERIMENT, RECIPE, ENVIRONMENT, DATA)  # what is there before the first step


class Reporter(Protocol):
    """Where a run sends its metrics and checkpoints. Called on every worker, the same number of times."""

    def report(self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint) -> None:
        """Publish metrics (None: only a checkpoint) and the checkpoint, of which each worker brings its part."""

    def resume_from(self, before: int | None = None) -> Path | None:
        """Return the checkpoint to go on from, one of an earlier step than ``before``."""

    def stop_requested(self) -> bool:
        """Tell whether somebody has asked the run to save and stop (asked of rank 0 only)."""

    def note_step(self, done: int) -> None:
        """Let those who watch know that ``done`` steps are made (told by rank 0 only, about twice a second)."""


class LocalReporter:
    """Writes the run directory: on rank 0 what workers share, on each what it alone holds."""

    def __init__(
        self,
        run: RunDirectory,
        should_stop: Callable[[], bool] = lambda: False,
        world: World | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        """Write into the directory of ``run``; ``should_stop`` is asked about twice a second, on rank 0.

        With ``mirror`` it is one of that store's, and each report is sent there too.
        """
        self._mirror = mirror
        self._run = run
        self._should_stop = should_stop
        self._world = world or World.alone()
        self._was_there = run.path.is_dir()
        self._curves = _curve_file(run)
        self._pool: Sums = {}  # files of the run's pool that count
        self._next_note = self._next_send = 0.0
        self._first_noted: tuple[int, float] | None = None  # since the start or the last rewind: the step, and when
        self._last_noted = 0

    def report(self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint) -> None:
        """Write the metrics, then the checkpoint: killed in between, a resumed run drops the line again.

        Raises:
            SetupError: on all workers, if a disk cannot be written; the previous checkpoint is intact.
        """
        written = self._world.gather_objects(self._world.agree(lambda: self._write_own(checkpoint)))
        shards = [own["shards"] for own in written]
        self._pool = {**self._pool, **{name: digest for own in written for name, digest in own["pool"].items()}}
        self._world.agree(lambda: self._write_common(metrics, checkpoint, shards), on_first=True)

    def _write_own(self, checkpoint: Checkpoint) -> dict[str, Sums]:
        """Write what this worker alone holds, and return the sums of its shards and of its file of the pool.

        Raises:
            SetupError: if the run's directory is gone: what is written now would be a run without its beginning.
        """
        if self._was_there and not self._run.path.is_dir():
            raise SetupError(
                f"run directory {self._run.path} is gone, though the run is at work: it was removed, or its storage "
                "was; bring it back, or run the same command to begin again"
            )
        with self._run.writing():
            if checkpoint.products:
                write_products(self._run, checkpoint.products)
            part = write_part(self._run, checkpoint, self._world.rank)
            shards = write_shard(self._run.checkpoints, checkpoint, self._world.rank)
            if self._world.rank:
                self._push_own(checkpoint, shards, part)
        return {"shards": shards, "pool": part}

    def _write_common(
        self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint, shards: Sequence[Sums]
    ) -> None:
        """Write what workers share; ``shards`` are the sums of theirs, by rank."""
        with self._run.writing():
            if metrics is not None:
                self._write_metrics(metrics, checkpoint)
            sums = {name: digest for own in shards for name, digest in own.items()}
            elsewhere = self._mirror is not None
            written = write_checkpoint(self._run.checkpoints, checkpoint, sums, elsewhere=elsewhere, pool=self._pool)
            judged = {} if metrics is None else {"not_judged": why_not_judged(metrics)}
            phases = rounded(checkpoint.state.get("phases", {}))
            warnings = list(checkpoint.warnings)
            step = checkpoint.step
            at = {"step": step, "current_step": step, "phases": phases}
            self._run.write_status(state="running", **at, warnings=warnings, **judged)
            if self._mirror is not None:
                other_shards = {f"{CHECKPOINTS}/{written.name}/{name}" for name in sums if name not in shards[0]}
                self._mirror.push(self._run.name, elsewhere=other_shards)

    def _push_own(self, checkpoint: Checkpoint, shards: Sums, part: Sums) -> None:
        """Push the files that this worker wrote alone to the mirror; rank 0 pushes the rest after them."""
        if self._mirror is None:
            return
        step = step_name(checkpoint.step)
        for name in shards:
            path = shard_path(self._run.checkpoints, checkpoint.step, name)
            self._mirror.push_file(path, f"{self._run.name}/{CHECKPOINTS}/{step}/{name}")
        products = [product_path(self._run, product) for product in checkpoint.products]
        for path in [*products, *(part_path(self._run, name) for name in part)]:
            self._mirror.push_file(path, path.relative_to(self._mirror.local).as_posix())

    def resume_from(self, before: int | None = None) -> Path | None:
        """Return the newest whole checkpoint, of an earlier step than ``before``."""
        found = latest_checkpoint(self._run.checkpoints, before)
        self._pool = {} if found is None else pool_files(found)
        return found

    def stop_requested(self) -> bool:
        """Tell whether a stop was asked for."""
        return self._should_stop()

    def note_step(self, done: int) -> None:
        """Write step and pace into the run's status every few seconds: more rarely where the disk is slow.

        It goes to a store elsewhere too, more rarely still: who looks from another machine sees no other step. No step
        waits for that store.
        """
        now = time.monotonic()
        if now < self._next_note:
            return
        if self._first_noted is None or done < self._last_noted or done == self._first_noted[0]:
            self._first_noted, pace = (done, now), None
        else:
            pace = (done - self._first_noted[0]) / (now - self._first_noted[1])
        self._last_noted = done
        with suppress(RaykdError, OSError):  # the next report says what is wrong with the disk
            if self._run.path.is_dir():
                self._run.write_status(current_step=done, steps_per_second=pace)
        ended = time.monotonic()
        self._next_note = ended + max(_NOTE_SECONDS, (ended - now) / _NOTE_SHARE)
        if self._mirror is not None and ended >= self._next_send:
            files = [
                self._run.path / name for name in (*_OPENING, STATUS)
            ]  # the status behind what it is the status of
            if self._mirror.push_aside(files):
                self._next_send = ended + _SEND_SECONDS

    def _write_metrics(self, metrics: Mapping[str, float], checkpoint: Checkpoint) -> None:
        self._run.append_row(metrics)
        if checkpoint.samples is not None:
            self._run.write_sample_sheet(checkpoint.step, checkpoint.samples)
        if self._curves is not None:
            self._curves.append(metrics, checkpoint.step, checkpoint.samples)


def _curve_file(run: RunDirectory) -> "CurveFile | None":
    """Return where TensorBoard finds the curves of a run, None where it is not installed."""
    try:
        from raykd.store.curves import CurveFile
    except ImportError:
        logger.info("tensorboard is not installed; %s has the curves", METRICS)
        return None
    return CurveFile(run.tensorboard)
