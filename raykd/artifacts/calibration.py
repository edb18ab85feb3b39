"""The teacher's class-conditional statistics for a run: read where they exist, else measured on images and kept.

They are the one thing a data-free run may learn from images of the classes, so whatever way they come, the images
behind them are in the run's ledger under ``calibration``.
"""

import logging
from pathlib import Path

from raykd.artifacts.class_statistics import (
    collect,
    input_metadata,
    load_statistics,
    read_metadata,
    save_statistics,
    used_images,
)
from raykd.config.data_root import find_file
from raykd.data.datasets import Images
from raykd.data.ledger import OpenedData
from raykd.data.stored import StoredImages, stored_images
from raykd.distributed.world import World
from raykd.errors import CorruptError, UsageError
from raykd.files import is_file, sha256_of
from raykd.methods.base import ClassMoments
from raykd.models.moments import MomentTeacher
from raykd.models.teacher import Teacher
from raykd.recipe.experiment import Experiment
from raykd.spec import DataSpec
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

BY_PRODUCT_IMAGES = 100
"""Of each class: what LS-GDFD takes on ImageNet."""
_FOLDER = "statistics"


def class_statistics(
    experiment: Experiment,
    teacher: Teacher,
    teacher_sha256: str | None,
    spec: DataSpec,
    world: World,
    opened: OpenedData,
    workspace: Workspace,
) -> ClassMoments:
    """Return the statistics that the recipe's ``calibration`` names; every worker must call it.

    Args:
        experiment: whose recipe has a ``calibration`` section.
        teacher: whose BatchNorm inputs are meant.
        teacher_sha256: of its weights.
        spec: the data's.
        world: rank 0 makes what is missing, the others wait.
        opened: the ledger.
        workspace: where runs and data are.

    Raises:
        UsageError: if there are none, or they are another teacher's.
        CorruptError: if their file is damaged.
    """
    recipe = experiment.recipe
    config = recipe.calibration
    assert config is not None, "asked only where the recipe has the section"
    moments = MomentTeacher(teacher)
    if config.per_class is not None:
        shown = f"{recipe.data.name.replace('/', '_')}-{spec.size}{f'-pad{spec.pad}' if spec.pad else ''}"
        shown += f"-crop{spec.crop_pct:g}" if spec.crop_pct != 1 else ""
        name = f"{(teacher_sha256 or '')[:12]}-{shown}-{config.per_class}"
        path = workspace.store / _FOLDER / f"{name}.safetensors"
        opened.note("calibration", _entry(recipe.data.name, "train", config.per_class))
        workspace.pull([_FOLDER], world)
        is_new = _measure_if_missing(
            path, recipe.data.name, config.per_class, moments, teacher_sha256, spec, world, workspace.data
        )
        if is_new:  # workers of other machines read it next
            workspace.push(_FOLDER, world)
            workspace.pull([_FOLDER], world)
    elif config.from_teacher:
        source = experiment.teacher
        if source is None:
            raise UsageError("calibration.from_teacher needs a teacher that is a recipe; give per_class or file")
        path = workspace.run(source.run_id).statistics
        if not is_file(path):
            raise UsageError(
                f"the teacher's run {source.run_id} has no {path.name} (only networks with BatchNorm leave one); "
                f"set calibration.from_teacher=false and calibration.per_class={BY_PRODUCT_IMAGES}"
            )
    else:
        advice = "make it by `raykd statistics`, or set the data root by RAYKD_DATA"
        path = find_file(str(config.file), workspace.data, "statistics file", advice)
    metadata = world.agree(lambda: read_metadata(path))
    opened.note("calibration", _entry(metadata["data"], metadata["split"], metadata["per_class"]))
    return world.agree(lambda: load_statistics(path, moments, teacher_sha256, spec))


def _measure_if_missing(
    path: Path,
    data: str,
    per_class: int,
    moments: MomentTeacher,
    teacher_sha256: str | None,
    spec: DataSpec,
    world: World,
    data_root: Path | None,
) -> bool:
    """Let rank 0 make the file if it is missing or damaged, and fail on all workers alike if it cannot.

    Returns whether it was measured now.
    """

    def make() -> bool:
        if is_file(path):
            try:
                read_metadata(path)
                return False
            except CorruptError as error:
                logger.warning("%s: they are measured again", error)
        logger.info("opening %d images of each class of %s for the teacher's statistics", per_class, data)
        images = stored_images(data, "train", spec, data_root)
        _save(path, moments, images, spec, data, per_class, teacher_sha256)
        return True

    return world.agree(make, on_first=True)


def keep_statistics(path: Path, teacher: Teacher, weights: Path, images: Images, spec: DataSpec, data: str) -> None:
    """Write the statistics of a teacher-to-be, whose weights are in a file, from the images it was trained on."""
    _save(path, MomentTeacher(teacher), images, spec, data, BY_PRODUCT_IMAGES, sha256_of(weights))


def _save(
    path: Path,
    moments: MomentTeacher,
    images: Images | StoredImages,
    spec: DataSpec,
    data: str,
    per_class: int,
    teacher_sha256: str | None,
) -> None:
    device = next(moments.parameters()).device
    metadata = {
        "teacher_sha256": teacher_sha256,
        "data": data,
        "split": "train",
        "per_class": per_class,
        "counts": used_images(images, spec, per_class),
    }
    progress = path.with_name(f".{path.name}.progress")
    found = collect(moments, images, spec, World.alone(device), per_class=per_class, progress=progress)
    save_statistics(path, found, moments.layers, {**metadata, **input_metadata(spec)})


def _entry(data: str, split: str, per_class: int) -> str:
    return f"{data}/{split} ({per_class} of each class)"
