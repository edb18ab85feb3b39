"""Class-conditional statistics of what a teacher's BatchNorm layers see: measured on images, kept in a file.

A file holds per layer `<layer>.mean` and `<layer>.var`, float32 [K, C], and in its metadata whose they are (teacher,
layers) and of which images (data, split, number of each class, normalisation).

K classes, C channels of a layer, L of all layers together.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from raykd.data.datasets import Images
from raykd.data.stored import StoredImages
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.errors import CorruptError, SetupError, UsageError
from raykd.files import check_depth, damaged, describe, is_file, replacing, writing
from raykd.methods.base import ClassMoments
from raykd.models.moments import MomentTeacher
from raykd.spec import DataSpec
from raykd.tensors import read_tensor_file, sum_of_tensors

logger = logging.getLogger(__name__)

_FORMAT, _VERSION = "raykd.class-statistics", "1"
_ADVICE = "make it again by `raykd statistics`"
_MAX_NAMED = 5  # classes named in a message
_SAVE_SECONDS = 60.0


def collect(
    teacher: MomentTeacher,
    images: Images | StoredImages,
    spec: DataSpec,
    world: World,
    *,
    per_class: int,
    batch: int = 100,
    progress: Path | None = None,
) -> ClassMoments:
    """Return mean and biased variance of every BatchNorm layer's input by class, float32 [K, C] on the CPU.

    They run over the pixels of the first ``per_class`` images of each class, in the order of the split, in one pass.
    Workers share the images and get the same result; every worker must call it.

    Args:
        teacher: on the device of ``world``.
        images: at least 2 of each class.
        spec: how the teacher wants to see them.
        world: in whose precision the teacher runs.
        per_class: 2 or more; where there are fewer, what is there is used and a warning says so.
        batch: images in memory at a time; it does not change the result.
        progress: file, of this worker's own, that keeps what is measured so far, so that a call after a kill goes on
            there, on a CPU to the same bits (a GPU adds up in no fixed order); it is removed in the end. None:
            nothing is kept.

    Raises:
        UsageError: if a class has fewer than 2 images, or the teacher's activations are not finite.
    """
    if per_class < 2:
        raise UsageError(f"per_class is {per_class}; a class's variance takes 2 images or more")
    rows = [(images.labels == label).nonzero().flatten()[:per_class] for label in range(spec.num_classes)]
    _check_counts([len(part) for part in rows], per_class, spec)
    shift = torch.cat([mean for mean, _ in teacher.running()]).double()
    own = torch.cat(rows).sort().values[world.rank :: world.size]
    sums = _sums(teacher, images, own, spec, world, shift, batch, progress)
    count, offset, square = world.sum(sums).split([1, len(shift), len(shift)], dim=1)
    offset, square = offset / count, square / count
    mean, variance = (offset + shift).float().cpu(), (square - offset.square()).clamp(min=0).float().cpu()
    found = list(zip(mean.split(teacher.widths, dim=1), variance.split(teacher.widths, dim=1), strict=True))
    _check_finite(found, teacher.layers)
    if progress is not None and progress.exists():
        progress.unlink()
    return found


def used_images(images: Images | StoredImages, spec: DataSpec, per_class: int) -> list[int]:
    """Return how many images of each class ``collect`` takes."""
    return torch.bincount(images.labels, minlength=spec.num_classes)[: spec.num_classes].clamp(max=per_class).tolist()


def save_statistics(path: Path, moments: ClassMoments, layers: Sequence[str], metadata: Mapping[str, Any]) -> None:
    """Write statistics to ``path``, where they appear only when they are whole.

    Args:
        path: a file there is replaced, a missing folder made.
        moments: per layer mean and variance, each [K, C].
        layers: their names.
        metadata: ``teacher_sha256``, ``data``, ``split``, ``per_class``, ``input_metadata``, and what else a reader
            may want to know, as plain data.

    Raises:
        SetupError: if the disk does not take it; what was there before is untouched.
    """
    tensors: dict[str, Tensor] = {}
    for name, (mean, variance) in zip(layers, moments, strict=True):
        for kind, values in zip(_keys(name), (mean, variance), strict=True):
            tensors[kind] = values.detach().to("cpu", torch.float32, copy=True).contiguous()
    content = {**metadata, "classes": len(moments[0][0]), "layers": list(layers)}
    header = {key: json.dumps(value) for key, value in content.items()}
    header |= {"sha256": sum_of_tensors(header, tensors), "version": _VERSION, "format": _FORMAT}
    try:
        check_depth(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as staging:
            save_file(tensors, staging, header)
    except (OSError, SafetensorError) as error:
        raise SetupError(f"could not write {path} ({describe(error)}); free some space or give another place") from None


def input_metadata(spec: DataSpec) -> dict[str, Any]:
    """Return how the images were shown, as a file of statistics states it."""
    shown: dict[str, Any] = {"mean": spec.mean, "std": spec.std}
    return shown | ({"pad": spec.pad} if spec.pad else {}) | ({"crop_pct": spec.crop_pct} if spec.crop_pct != 1 else {})


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what a file of statistics says of itself: ``save_statistics``'s ``metadata``, ``classes`` and ``layers``.

    Raises:
        UsageError: if there is no such file, it holds something else, or another version wrote it.
        CorruptError: if it is damaged.
    """
    return _open(path)[0]


def load_statistics(path: Path, teacher: MomentTeacher, teacher_sha256: str | None, spec: DataSpec) -> ClassMoments:
    """Return the statistics in ``path`` in the order of the teacher's layers, float32 [K, C] on the CPU.

    Args:
        path: a file that ``save_statistics`` wrote.
        teacher: whose they must be.
        teacher_sha256: of its weights; None if they are not from a file, and then not compared.
        spec: the data's, as the teacher sees it.

    Raises:
        UsageError: if the file is no such one, or is another teacher's or another data set's.
        CorruptError: if it is damaged.
    """
    metadata, tensors = _open(path)
    advice = (
        f"make the right one: raykd statistics TEACHER --data {metadata['data']} --per-class {metadata['per_class']} "
        "--out FILE, with this teacher as TEACHER"
    )
    if teacher_sha256 is not None and metadata["teacher_sha256"] != teacher_sha256:
        theirs = metadata["teacher_sha256"] or "unknown"
        raise UsageError(
            f"{path} was made with another teacher (sha256 {theirs[:8]}, this one is {teacher_sha256[:8]}); {advice}"
        )
    if metadata["layers"] != teacher.layers:
        odd = sorted(set(metadata["layers"]) ^ set(teacher.layers)) or teacher.layers
        names = ", ".join(odd[:_MAX_NAMED]) + (", ..." if len(odd) > _MAX_NAMED else "")
        raise UsageError(
            f"{path} is for a teacher of {len(metadata['layers'])} BatchNorm layers, this one has "
            f"{len(teacher.layers)}; they differ in {names}; {advice}"
        )
    if metadata["classes"] != spec.num_classes:
        raise UsageError(
            f"{path} has {metadata['classes']} classes, data {spec.name!r} has {spec.num_classes}; {advice}"
        )
    theirs = [metadata["mean"], metadata["std"], metadata.get("pad", 0), metadata.get("crop_pct", 1.0)]
    ours = [list(spec.mean), list(spec.std), spec.pad, spec.crop_pct]
    if theirs != ours:
        raise UsageError(
            f"{path} is of images normalised by {theirs[0]} / {theirs[1]} with pad {theirs[2]} and crop_pct "
            f"{theirs[3]}, data {spec.name!r} is by {ours[0]} / {ours[1]} with pad {ours[2]} and crop_pct {ours[3]}; "
            f"{advice}"
        )
    found = []
    for name, width in zip(teacher.layers, teacher.widths, strict=True):
        mean, variance = (tensors[key] for key in _keys(name))
        if mean.shape[1] != width:
            raise UsageError(
                f"{path} has {mean.shape[1]} channels for layer {name!r}, this teacher has {width} there; {advice}"
            )
        found.append((mean, variance))
    return found


def _sums(
    teacher: MomentTeacher,
    images: Images | StoredImages,
    rows: Tensor,
    spec: DataSpec,
    world: World,
    shift: Tensor,
    batch: int,
    progress: Path | None,
) -> Tensor:
    """Return the sums [K, 1 + 2L] by class over some images, of the means over an image's pixels of 1, x and x^2.

    In float64, which merges batches exactly; x is less ``shift``, so that little cancels in the variance.
    """
    of = {"batch": str(batch), "spec": json.dumps(spec.to_dict())}
    digest = sum_of_tensors(of, {"of rows": rows, "of labels": images.labels[rows], **teacher.state_dict()})
    done, total = _resume(progress, digest, shift.new_zeros(spec.num_classes, 1 + 2 * len(shift)))
    saved = time.monotonic()
    count, rows = len(rows), rows[done:]
    some = images.select(rows) if isinstance(images, StoredImages) else Images(images.pixels[rows], images.labels[rows])
    for part, labels, _ in evaluation_batches(some, spec, World.alone(world.device, world.precision), batch):
        with torch.no_grad(), world.autocast():
            _, _, moments = teacher(part, len(part))
        offset = torch.cat([mean for mean, _ in moments], dim=1).double() - shift
        square = torch.cat([variance for _, variance in moments], dim=1).double() + offset.square()
        total.index_add_(0, labels, torch.cat((offset.new_ones(len(part), 1), offset, square), dim=1))
        done += len(part)
        if progress is not None and time.monotonic() - saved >= _SAVE_SECONDS:
            logger.info("%s of %s images measured", f"{done:,}", f"{count:,}")
            _save_progress(progress, digest, done, total)
            saved = time.monotonic()
    return total


def _resume(progress: Path | None, digest: str, nothing: Tensor) -> tuple[int, Tensor]:
    """Return how many images are in the sums that an earlier call has kept, and these; else 0 and ``nothing``."""
    if progress is None or not progress.exists():
        return 0, nothing
    try:
        header, tensors = read_tensor_file(progress, "remove it")
        if header["of"] == digest and header["sha256"] == sum_of_tensors({}, tensors):
            logger.info("%s: going on after %s images", progress, header["done"])
            return int(header["done"]), tensors["sums"].to(nothing)
    except (CorruptError, UsageError, KeyError, ValueError):
        pass
    logger.info("%s is of other statistics, or damaged: they are measured from the beginning", progress)
    return 0, nothing


def _save_progress(progress: Path, digest: str, done: int, total: Tensor) -> None:
    tensors = {"sums": total.cpu()}
    header = {"of": digest, "done": str(done), "sha256": sum_of_tensors({}, tensors)}
    with writing(str(progress)), replacing(progress) as staging:
        save_file(tensors, staging, header)


def _check_counts(counts: Sequence[int], expected: int, spec: DataSpec) -> None:
    """Refuse classes without a variance; tell of those with fewer images than expected."""

    def named(below: int) -> str:
        few = [label for label, count in enumerate(counts) if count < below]
        names = [f"{spec.class_names[i] if spec.class_names else i} ({counts[i]})" for i in few[:_MAX_NAMED]]
        return f"{len(few)} of {len(counts)} classes: {', '.join(names)}{', ...' if len(few) > _MAX_NAMED else ''}"

    if min(counts) < 2:
        raise UsageError(
            f"fewer than 2 images of {named(2)}; statistics by class take 2 or more of each: name a data set that "
            "has images of all of the teacher's classes"
        )
    if min(counts) < expected:
        logger.warning("fewer than %d images of %s; using all there are of these", expected, named(expected))


def _check_finite(moments: ClassMoments, layers: Sequence[str]) -> None:
    for name, (mean, variance) in zip(layers, moments, strict=True):
        if not (mean.isfinite().all() and variance.isfinite().all()):
            raise UsageError(
                f"what the teacher's layer {name!r} sees is not finite, so it has no statistics; `raykd inspect` tells "
                "more of the teacher's health"
            )


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file, and be sure that it is whole."""
    if not is_file(path):
        raise UsageError(f"no statistics file {path}; `raykd statistics` makes one")
    header, tensors = read_tensor_file(path, _ADVICE)
    if header.pop("format", None) != _FORMAT:
        raise UsageError(f"{path} holds something else than statistics by class; `raykd statistics` makes these")
    if header.pop("version", None) != _VERSION:
        raise UsageError(f"{path} is of another version of raykd, in a format this one cannot read; {_ADVICE}")
    if header.pop("sha256", None) != sum_of_tensors(header, tensors):
        raise damaged(path, "it differs from its checksum", _ADVICE)
    return {key: json.loads(value) for key, value in header.items()}, tensors


def _keys(layer: str) -> tuple[str, str]:
    return f"{layer}.mean", f"{layer}.var"
