"""A fixed teacher's answers to a fixed set, computed once and shared by all runs of a store.

<store>/logits/<teacher>-<images>.parquet    one row per image, column ``logits``: float32 [K]

The two keys are sums: of the teacher's weights, architecture, precision and kind of device; of the pixels and their
normalisation.

On CPUs, training on them is bit-equal to asking the teacher in every step. Its logits of an image do not depend on the
batch around it, but for batches of a few images: below about four to a thread, matrix products and convolutions take
other kernels, which differ in the last bits. So no batch here is that small, and of what a run would ask, one batch is
asked and compared: where a bit differs, for its own small batches or since another machine wrote the file, the run
asks its teacher live. On GPUs, and beside a compiled teacher, the two ways agree up to rounding.

Shapes: N images, K classes.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raykd.data.datasets import Images
from raykd.data.streams import evaluation_batches
from raykd.distributed.memory import free_memory
from raykd.distributed.world import World
from raykd.errors import CorruptError, RaykdError, UsageError
from raykd.files import damaged, describe, locked, make_folder, replacing
from raykd.models.logits import compute_logits
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

logger = logging.getLogger(__name__)

_ADVICE = "it is computed again"
_MAX_BATCH, _MIN_BATCH = 500, 64
"""Images of a batch: ``_MIN_BATCH`` is four for each of 16 threads; the images of a smaller set are repeated."""


class TeacherQuery(NamedTuple):
    """Whose answers to what: a teacher with the sum of its weights, and images as networks of ``spec`` see them.

    ``entry`` is their data set and split, for whoever finds the file.
    """

    teacher: Teacher
    weights_sha256: str
    images: Images
    spec: DataSpec
    entry: str


def teacher_logits(query: TeacherQuery, batch: int, world: World, store: Path) -> Tensor | None:
    """Return the teacher's logits of all images, float32 (N, K) on the CPU, for batches of ``batch`` on this worker.

    They are read if the store has them, else computed by all workers together and kept. Of several runs that want the
    same ones at once, each of one worker, the first computes and the others wait. A file that is damaged is computed
    again. None where they would not fit into memory, or asking in every step would give other bits. Every worker must
    call it.
    """
    logits = _load_or_compute(query, world, store)
    if logits is None or world.device.type != "cpu":
        return logits
    rows = torch.arange(batch) % len(logits)
    same = world.gather_objects(torch.equal(_logits_of(query, rows, batch, world), logits[rows]))
    if not all(same):
        logger.info("batches of %d give the teacher's logits other last bits: it is asked in every step", batch)
        return None
    return logits


def teacher_classes(query: TeacherQuery, world: World, store: Path) -> Tensor:
    """Return the teacher's class of every image, int64 (N,) on the CPU, from the same file. Every worker must call it.

    Raises:
        UsageError: if the logits do not fit into memory.
    """
    logits = _load_or_compute(query, world, store)
    if logits is None:
        raise UsageError(f"the teacher's answers to {query.entry} do not fit into memory: set data.ood_images lower")
    return logits.argmax(1)


def _load_or_compute(query: TeacherQuery, world: World, store: Path) -> Tensor | None:
    """Read or compute the logits of all images, or return None where they would not fit."""
    images, spec = query.images, query.spec
    count, size = len(images.labels), len(images.labels) * spec.num_classes * 4
    room = free_memory()
    fits = world.broadcast(room is None or 3 * size <= room)
    if not fits:
        logger.info("the teacher's logits of %d images do not fit into memory: it is asked in every step", count)
        return None
    path = store / "logits" / f"{_teacher_key(query, world)}-{_images_key(images, spec)}.parquet"
    with _lock(path, alone=world.size == 1):
        if world.broadcast(os.path.isfile(path)):  # False, too, where nobody may look
            try:
                logits = world.agree(lambda: _read(path, count, spec.num_classes))
            except CorruptError as error:
                if world.rank == 0:
                    logger.warning("%s", error)
            else:
                logger.info("the teacher's logits of %d images: read", count)
                return logits
        began = time.monotonic()
        logits = compute(query, world)
        if world.rank == 0:
            logger.info("the teacher's logits of %d images: computed in %.1f s", count, time.monotonic() - began)
            try:
                _write(path, logits, query, world)
            except (OSError, CorruptError) as error:  # what it was kept for is lost, this run is not
                logger.warning("the teacher's logits cannot be kept in %s: %s", path.parent, describe(error))
    return logits


def _teacher_key(query: TeacherQuery, world: World) -> str:
    network = query.teacher.network
    kind = f"{type(network).__module__}.{type(network).__qualname__}"  # two factories' may look alike
    identity = json.dumps([query.weights_sha256, kind, repr(network), world.precision, world.device.type])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _images_key(images: Images, spec: DataSpec) -> str:
    digest = hashlib.sha256(json.dumps([list(images.pixels.shape), spec.mean, spec.std]).encode())
    digest.update(images.pixels.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def compute(query: TeacherQuery, world: World) -> Tensor:
    """Let every worker answer its share (rows rank, rank + size, ...) in equal batches, and put the shares together."""
    count = len(query.images.labels)
    share = -(-count // world.size)
    batches = -(-share // _MAX_BATCH)
    width = max(_MIN_BATCH, -(-share // batches))
    rows = torch.arange(world.rank, batches * width * world.size, world.size) % count
    own = _logits_of(query, rows, width, world).to(world.device)
    return world.gather(own).cpu().transpose(0, 1).reshape(-1, query.spec.num_classes)[:count].contiguous()


def _logits_of(query: TeacherQuery, rows: Tensor, width: int, world: World) -> Tensor:
    """Return the teacher's logits of these rows of the images, ``width`` at a time."""
    alone = World.alone(world.device, world.precision)
    parts = (Images(query.images.pixels[part], query.images.labels[part]) for part in rows.split(width))
    batches = (batch.images for part in parts for batch in evaluation_batches(part, query.spec, alone, width))
    return compute_logits(query.teacher, batches, alone).cpu()


@contextmanager
def _lock(path: Path, *, alone: bool) -> Iterator[None]:
    """Hold the file's lock; workers that compute together go without, since waiting would time their group out.

    Where there can be no file, there is nothing to lock: then each run computes for itself. No worker raises, since the
    others, whose disks may do, would wait for it.
    """
    with ExitStack() as held:
        with suppress(OSError, RaykdError):  # the reason is told when the file cannot be written
            make_folder(path.parent)
            if alone:
                held.enter_context(locked(path.with_suffix(".lock"), wait=True))
        yield


def _write(path: Path, logits: Tensor, query: TeacherQuery, world: World) -> None:
    classes = logits.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1).numpy()), classes)
    metadata = {
        "teacher_sha256": query.weights_sha256,
        "teacher": type(query.teacher.network).__qualname__,
        "precision": world.precision,
        "device": world.device.type,
        "data": query.entry,
        "count": len(logits),
    }
    table = pa.table({"logits": column}, metadata={"sha256": _sum(logits), "about": json.dumps(metadata)})
    with replacing(path) as staging:
        pq.write_table(table, staging, compression="zstd")


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
    except (OSError, pa.ArrowException, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise damaged(path, describe(error), _ADVICE) from None
    if logits.shape != (count, classes) or kept != _sum(logits):
        raise damaged(path, "its sum or shape is not what was written", _ADVICE)
    return logits


def _sum(logits: Tensor) -> str:
    return hashlib.sha256(logits.contiguous().numpy().data).hexdigest()
