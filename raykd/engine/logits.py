"""A fixed teacher's answers to a fixed set, computed once and shared by all runs of a store.

<store>/logits/<teacher>-<images>.parquet    one row per image, column ``logits``: float32 [K]

The two keys are sums: of the teacher's weights, architecture, precision and kind of device; of the pixels and their
normalisation. On CPUs a network's logits of an image do not depend on the batch it is in, so training on them is
bit-equal to asking the teacher in every step. On GPUs, whose kernels are chosen by the batch, it is so up to rounding.

Shapes: N images, K classes.
"""

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raykd.data.datasets import Images
from raykd.data.pixels import free_memory
from raykd.data.spec import DataSpec
from raykd.data.streams import evaluation_batches
from raykd.engine.evaluate import logits_of
from raykd.errors import CorruptError
from raykd.models.teacher import Teacher
from raykd.parallel import World

logger = logging.getLogger(__name__)

_BATCH = 500


def teacher_logits(
    teacher: Teacher, weights_sha256: str, images: Images, spec: DataSpec, world: World, store: Path
) -> Tensor | None:
    """Return the teacher's logits of all images, float32 (N, K) on the CPU, or None where they would not fit.

    They are read if the store has them, else computed by all workers together and kept. Of several runs that want the
    same ones at once, each of one worker, the first computes and the others wait. A file that is damaged is computed
    again. Every worker must call it.
    """
    count, size = len(images.labels), len(images.labels) * spec.num_classes * 4
    room = free_memory()
    fits = world.broadcast(room is None or 3 * size <= room)
    if not fits:
        logger.info("the teacher's logits of %d images do not fit into memory: it is asked in every step", count)
        return None
    keys = (_teacher_key(teacher, weights_sha256, world), _images_key(images, spec))
    path = store / "logits" / f"{keys[0]}-{keys[1]}.parquet"
    with _first_come(path, alone=world.size == 1):
        if world.broadcast(path.is_file()):
            whole, problem = None, None
            try:
                whole = _read(path, count, spec.num_classes)
            except CorruptError as error:
                problem = str(error)
            problems = [told for told in world.gather_objects(problem) if told]
            if whole is not None and not problems:
                logger.info("the teacher's logits of %d images: read", count)
                return whole
            if world.rank == 0:
                logger.warning("%s; computing it again", problems[0])
        began = time.monotonic()
        whole = _compute(teacher, images, spec, world)
        if world.rank == 0:
            logger.info("the teacher's logits of %d images: computed in %.1f s", count, time.monotonic() - began)
            try:
                _write(path, whole)
            except OSError as error:  # what it was kept for is lost, this run is not
                logger.warning("the teacher's logits cannot be kept in %s: %s", path.parent, error)
    return whole


def _teacher_key(teacher: Teacher, weights_sha256: str, world: World) -> str:
    told = json.dumps([weights_sha256, repr(teacher.network), world.precision, world.device.type])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _images_key(images: Images, spec: DataSpec) -> str:
    found = hashlib.sha256(json.dumps([list(images.pixels.shape), spec.mean, spec.std]).encode())
    found.update(images.pixels.contiguous().numpy().data)
    return found.hexdigest()[:16]


def _compute(teacher: Teacher, images: Images, spec: DataSpec, world: World) -> Tensor:
    """Let every worker answer its share (rows rank, rank + size, ...) and put the shares together."""
    batches = (batch.images for batch in evaluation_batches(images, spec, world, _BATCH))
    count = len(images.labels)
    rows = -(-count // world.size)
    share = torch.zeros(rows, spec.num_classes, device=world.device)
    if world.rank < count:
        answered = logits_of(teacher, batches, world)
        share[: len(answered)] = answered
    return world.gather(share).cpu().transpose(0, 1).reshape(-1, spec.num_classes)[:count].contiguous()


@contextmanager
def _first_come(path: Path, *, alone: bool) -> Iterator[None]:
    """Hold the file's lock; workers that compute together go without, since waiting would time their group out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not alone:
        yield
        return
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems know no locks
            logger.debug("no lock on %s (%s): two runs may compute the same", path, error)
        yield


def _write(path: Path, logits: Tensor) -> None:
    classes = logits.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1).numpy()), classes)
    table = pa.table({"logits": column}, metadata={"sha256": _sum(logits)})
    staging = path.with_name(f".{path.name}.{time.time_ns()}.writing")
    try:
        pq.write_table(table, staging, compression="zstd")
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def _read(path: Path, count: int, classes: int) -> Tensor:
    """Return what ``_write`` wrote.

    Raises:
        CorruptError: if it is anything else.
    """
    try:
        table = pq.read_table(path)
        column = table.column("logits").combine_chunks()
        logits = torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).copy()).view(-1, classes)
        kept = (table.schema.metadata or {}).get(b"sha256", b"").decode()
    except (OSError, pa.ArrowException, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CorruptError(f"{path} is damaged ({error})") from None
    if logits.shape != (count, classes) or kept != _sum(logits):
        raise CorruptError(f"{path} is damaged: its sum or shape is not what was written")
    return logits


def _sum(logits: Tensor) -> str:
    return hashlib.sha256(logits.contiguous().numpy().data).hexdigest()
