"""What a run will write, told before its first step: checkpoints, one more while it is written, bank, reports."""

import math
from dataclasses import dataclass

from torch import nn

from raykd.artifacts.bank import bank_bytes
from raykd.engine.blind_pool import pool_bytes
from raykd.engine.build import Built
from raykd.engine.samples import sheet_bytes
from raykd.engine.selection import MAX_IMAGES
from raykd.methods.base import BankMethod, PoolMethod
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe
from raykd.recipe.sections import SentinelConfig
from raykd.results import SELECTIONS
from raykd.spec import DataSpec
from raykd.store.checkpoint import KEPT
from raykd.store.space import require_room, size_of
from raykd.store.workspace import Workspace

_RECORDS_BYTES = 16_000  # recipe, environment, status, locks
_MANIFEST_BYTES = 2_000
_NAME_BYTES = 140  # of a tensor's name, shape and place in a file of weights
_TENSOR_BYTES = 350  # and in that of the state
_PACKED = 0.8  # of the bytes of images and logits are left; noise keeps all of them
_PART_BYTES = 150  # of what a checkpoint says of a file of the pool
_ROW_BYTES = 2_000  # of a report, in the metrics and in TensorBoard's file


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a run takes on the disk.

    Attributes:
        checkpoint: of one checkpoint.
        checkpoints: how many are there at a time, the one that is being written among them.
        largest: of the largest file.
        bank: of the generators that are its product.
        pool: of the images that are.
        student: of the chosen weights, and of statistics beside them.
        reports: of metrics, curves and sample sheets.
    """

    checkpoint: int
    checkpoints: int
    largest: int
    bank: int
    pool: int
    student: int
    reports: int

    @property
    def total(self) -> int:
        """Return the most that is there at a time."""
        return self.checkpoint * self.checkpoints + self.bank + self.pool + self.student + self.reports + _RECORDS_BYTES


def most_kept(sentinel: SentinelConfig) -> int:
    """Return how many checkpoints a run keeps at the most: one more where the last good one must stay."""
    return KEPT + (sentinel.policy != "warn")


def disk_need(built: Built, recipe: Recipe) -> DiskNeed:
    """Estimate what a run of the recipe takes; it is built, maybe by another schedule, and no step is done."""
    method, spec, schedule = built.method, built.spec, recipe.schedule
    waves = method.total_steps / method.context.steps
    reports = math.ceil(waves * schedule.steps / schedule.report_every)
    student = _bytes_of(method.student) if "student" in method.roles else 0
    makes_images = method.makes_images and built.teacher is not None
    blind = pool_bytes(spec, min(schedule.global_batch, MAX_IMAGES), reports) if student and makes_images else 0
    tensors = sum(1 for network in method.trained.values() for _ in network.state_dict())
    state = method.checkpoint_bytes() + blind + 3 * tensors * _TENSOR_BYTES
    sheet = 2 * sheet_bytes(spec) if makes_images else 0  # a file, and TensorBoard's
    pool, parts = 0, 0
    if isinstance(method, PoolMethod):
        images = method.images_made(recipe.method, schedule.steps, schedule.global_batch)
        pool, parts = images * method.image_bytes, reports * method.world.size  # inverted images are as noise
    return DiskNeed(
        checkpoint=len(SELECTIONS) * student + state + _MANIFEST_BYTES + parts * _PART_BYTES,
        checkpoints=min(most_kept(recipe.sentinel) + 1, reports),
        largest=max(state, student, pool // max(1, parts)),
        pool=pool,
        bank=bank_bytes(method.products_manifest()) if isinstance(method, BankMethod) else 0,
        student=student + _statistics_bytes(built),
        reports=reports * (sheet + _ROW_BYTES),
    )


def set_bytes(images: int, spec: DataSpec) -> int:
    """Estimate the bytes of a set of generated images: 8 bits a channel, and the teacher's logits, packed."""
    return round(_PACKED * images * (spec.channels * spec.size**2 + 4 * spec.num_classes))


def require_space(experiment: Experiment, built: Built, workspace: Workspace) -> None:
    """Refuse to begin, or to go on, where the store's disk has not the room for the rest of a run.

    Raises:
        SetupError: saying what is needed and what is free.
    """
    recipe, run = experiment.recipe, workspace.run(experiment.run_id)
    need = disk_need(built, recipe)
    elsewhere = "name another disk's folder by --out"
    if workspace.mirror is not None:
        elsewhere = "name another disk's folder in RAYKD_CACHE"
    require_room(
        f"run {experiment.run_id}",
        workspace.store,
        need.total - size_of(run.path),
        need.largest,
        f"{elsewhere}, or raise schedule.report_every",
    )


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.nbytes + _NAME_BYTES for tensor in network.state_dict().values())


def _statistics_bytes(built: Built) -> int:
    """Return the bytes of the statistics by class that a network with BatchNorm leaves, if it learns from images."""
    if "train" not in built.streams or built.teacher is not None:
        return 0
    norms = [module for module in built.method.student.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return 2 * 4 * built.spec.num_classes * sum(norm.num_features for norm in norms)
