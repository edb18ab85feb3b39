"""Measure a teacher's statistics by class for a file of their own, which recipes may then name."""

from pathlib import Path
from typing import Any

from raykd.artifacts.class_statistics import (
    collect,
    input_metadata,
    read_metadata,
    save_statistics,
    used_images,
)
from raykd.data.datasets import data_spec, train_spec
from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.engine.build import build_spec
from raykd.errors import CorruptError, UsageError
from raykd.models.moments import MomentTeacher
from raykd.models.teacher import Teacher
from raykd.results import LayerWidth, StatisticsResult
from raykd.spec import DataSpec
from raykd.store.workspace import Workspace
from raykd.tasks.inspect import Subject, as_file_name, load_subject

_SPLIT = "train"


def measure_statistics(
    subject: Subject, data: str | None, per_class: int, out: Path | None, workspace: Workspace
) -> StatisticsResult:
    """Write the statistics of a teacher's BatchNorm inputs by class, and return what was done.

    Args:
        subject: the teacher.
        data: set whose train split has the images; None for that of the teacher.
        per_class: images of each class.
        out: file; None for one in the current directory, named by teacher, data and ``per_class``.
        workspace: where data and runs are.

    Raises:
        UsageError: if teacher, data and file do not fit together, or the teacher's run is unfinished.
        CorruptError: if weights or data are damaged.
        SetupError: if the file cannot be written.
    """
    spec, world = build_spec(subject.data, workspace), World.current()
    name = data or workspace.located(subject.data).name
    path = out or Path(f"statistics-{subject.title}-{as_file_name(name)}-{per_class}.safetensors")
    _check_target(path)
    teacher_spec = _spec_for_teacher(name, spec, workspace)
    network, digest = load_subject(subject, spec, workspace)
    if digest is None:
        raise UsageError(
            f"run {subject.title} is not finished: its weights will change, and statistics belong to one set of "
            "weights; `raykd train` goes on with it"
        )
    teacher = MomentTeacher(Teacher(network, channels=spec.channels, size=spec.size).to(world.device))
    opened = OpenedData(workspace.data)
    images = opened.open_stored("calibration", name, _SPLIT, teacher_spec)
    progress = path.with_name(f".{path.name}.{world.rank}-of-{world.size}.progress")
    moments = collect(teacher, images, teacher_spec, world, per_class=per_class, progress=progress)
    metadata: dict[str, Any] = {"teacher_sha256": digest, "data": name, "split": _SPLIT, "per_class": per_class}
    counts = used_images(images, teacher_spec, per_class)
    save_statistics(path, moments, teacher.layers, {**metadata, "counts": counts, **input_metadata(spec)})
    return StatisticsResult(
        file=str(path),
        bytes=path.stat().st_size,
        teacher=subject.title,
        **metadata,
        classes=spec.num_classes,
        counts=counts,
        layers=[LayerWidth(name, width) for name, width in zip(teacher.layers, teacher.widths, strict=True)],
        data_opened=opened.by_role(),
    )


def _check_target(path: Path) -> None:
    """Refuse to replace anything but statistics, before any work is done."""
    if not path.exists():
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file to write")
    try:
        read_metadata(path)
    except (UsageError, CorruptError):
        raise UsageError(
            f"{path} exists and is no file of statistics by class, so it is left alone; give another name"
        ) from None


def _spec_for_teacher(name: str, spec: DataSpec, workspace: Workspace) -> DataSpec:
    """Return how the teacher must be shown the images of a set that may be another than its own."""
    if name != spec.name:
        theirs = data_spec(name, data_root=workspace.data)
        if theirs.num_classes != spec.num_classes:
            raise UsageError(
                f"data {name!r} has {theirs.num_classes} classes, the teacher has {spec.num_classes}; "
                "name a set of the same classes"
            )
    return train_spec(name, spec, workspace.data)
