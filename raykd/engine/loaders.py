"""What a run's streams show: the set to train on, or other images, chosen as the recipe says."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from raykd.artifacts.teacher_logits import TeacherQuery, teacher_classes, teacher_logits
from raykd.config.runtime import Runtime
from raykd.data.datasets import Images, count_images, train_spec
from raykd.data.index import best_rows
from raykd.data.ledger import OpenedData, Role
from raykd.data.streamed import StreamedImages
from raykd.data.streams import TrainStream
from raykd.distributed.world import World
from raykd.engine.evaluator import Evaluator
from raykd.methods import METHODS
from raykd.methods.base import PATCHES
from raykd.models.teacher import Teacher
from raykd.recipe.recipe import Recipe
from raykd.spec import DataSpec

_HELD_OUT = 0x401D  # keeps this draw apart from others


class StreamContext(NamedTuple):
    """For whom streams are opened, and from where."""

    recipe: Recipe
    spec: DataSpec
    world: World
    runtime: Runtime
    data_root: Path | None
    store: Path
    opened: OpenedData
    teacher: Teacher | None
    teacher_sha256: str | None


def open_streams(of: StreamContext) -> dict[str, TrainStream]:
    """Open every stream that the recipe's method declares, and nothing else.

    Raises:
        UsageError: if a set is not there, does not fit or is empty.
        CorruptError: if one is damaged.
    """
    streams: dict[str, TrainStream] = {}
    for role in METHODS[of.recipe.method.name].streams:
        streams[role] = _open_stream(role, of, streams)
    return streams


def sources(recipe: Recipe) -> dict[str, str]:
    """Return the data set behind every stream of the recipe's method."""
    data = recipe.data
    shown = {"train": data.train or data.name, "ood": data.ood, PATCHES: data.ood}
    return {role: str(shown[role]) for role in METHODS[recipe.method.name].streams}


def _open_stream(role: str, of: StreamContext, others: Mapping[str, TrainStream]) -> TrainStream:
    recipe, world = of.recipe, of.world
    data, batch = recipe.data, recipe.schedule.global_batch
    method = METHODS[recipe.method.name]
    source, labelled = sources(recipe)[role], role == "train"
    shown = train_spec(source, of.spec, of.data_root, labelled=labelled)
    augment = () if role == PATCHES else data.augment
    per_step = 1 if role == PATCHES else method.student_updates_per_step(recipe.method)
    images = _images(role, source, shown, of, others)
    logits = weights = None
    if isinstance(images, Images) and len(images.labels) and of.teacher is not None:
        assert of.teacher_sha256 is not None, "a teacher's weights have a sum"
        asked = TeacherQuery(of.teacher, of.teacher_sha256, images, shown, f"{source}/train")
        if method.asks_teacher_of_stream and of.runtime.teacher_logits == "cached" and not augment:
            logits = teacher_logits(asked, world.share(batch), world, of.store)
        if data.ood_balanced and not labelled:
            classes = teacher_classes(asked, world, of.store)
            weights = 1 / classes.bincount()[classes]
    if isinstance(images, Images) and not labelled and 0 < len(images.labels) < batch:
        # An order drawn anew for every image or two would take longer than the step.
        times = math.ceil(batch / len(images.labels))
        images = Images(images.pixels.repeat(times, 1, 1, 1), images.labels.repeat(times))
        logits = None if logits is None else logits.repeat(times, 1)
        weights = None if weights is None else weights.repeat(times)
    return TrainStream(
        images, shown, world, batch, recipe.seed, augment, teacher_logits=logits, weights=weights, per_step=per_step
    )


def _images(
    role: str, source: str, shown: DataSpec, of: StreamContext, others: Mapping[str, TrainStream]
) -> Images | StreamedImages:
    """Load what a stream shows, or open it to be read as it is needed; two streams of one set hold it once."""
    recipe, world = of.recipe, of.world
    data = recipe.data
    asked_as: Role = "train" if role == "train" else "ood"
    rows, _ = _rows(role, source, of)
    if data.buffer is not None:
        batch = recipe.schedule.global_batch
        share = {"seed": recipe.seed, "global_batch": batch, "share": world.slice(batch)}
        how = {"buffer": data.buffer, "rows": rows, **share}
        return world.agree(lambda: of.opened.stream(asked_as, source, "train", shown, **how))
    same = others.get("ood") if role == PATCHES else None
    if same is not None:
        return same.images
    return world.agree(lambda: of.opened.open(asked_as, source, "train", shown, rows))


def holdout_evaluator(of: StreamContext) -> Evaluator | None:
    """Return the exam on the images kept out of what a student learns from, or None where none are.

    Of images of another domain the labels mean nothing to the teacher: they measure agreement alone.
    """
    named = sources(of.recipe)
    role = next((role for role in ("train", "ood") if role in named), None)
    if role is None or not of.recipe.data.holdout:
        return None
    shown = train_spec(named[role], of.spec, of.data_root, labelled=role == "train")
    _, rows = _rows(role, named[role], of)
    images = of.opened.open("train" if role == "train" else "ood", named[role], "train", shown, rows)
    return Evaluator(images, shown, of.world, of.teacher, labelled=role == "train")


def _rows(role: str, source: str, of: StreamContext) -> tuple[Tensor | None, Tensor]:
    """Return which rows of a set are learnt from, None for all, and which are held out; both ascending."""
    chosen = None if role == "train" else _chosen(source, of)
    share = of.recipe.data.holdout
    if not share:
        return chosen, torch.empty(0, dtype=torch.int64)
    whole = torch.arange(count_images(source, "train", of.data_root)) if chosen is None else chosen
    # The same for every seed, so that students of several seeds are judged alike.
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(_HELD_OUT))
    count = max(1, round(share * len(whole)))
    return whole[order[count:]].sort().values, whole[order[:count]].sort().values


def _chosen(source: str, of: StreamContext) -> Tensor | None:
    """Return which rows of the other images are shown, ascending, or None for all."""
    data = of.recipe.data
    if data.ood_index is not None:
        return best_rows(data.ood_index, source, data.ood_images, of.data_root, of.teacher_sha256)
    if data.ood_images is None:
        return None
    return torch.arange(min(data.ood_images, count_images(source, "train", of.data_root)))
