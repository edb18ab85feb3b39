"""Training streams of a run: the data set to train on, or images of another domain, chosen as the recipe says."""

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
    """What streams depend on: the run's recipe, data, worker and teacher, and where data sets and caches are."""

    recipe: Recipe
    spec: DataSpec
    world: World
    runtime: Runtime
    data_root: Path | None
    store: Path
    opened: OpenedData
    teacher: Teacher | None
    teacher_sha256: str | None


def open_streams(context: StreamContext) -> dict[str, TrainStream]:
    """Open every stream that the recipe's method declares, and nothing else.

    Raises:
        UsageError: if a set is not there, does not fit or is empty.
        CorruptError: if one is damaged.
    """
    streams: dict[str, TrainStream] = {}
    for role in METHODS[context.recipe.method.name].streams:
        streams[role] = _open_stream(role, context, streams)
    return streams


def sources(recipe: Recipe) -> dict[str, str]:
    """Return the data set behind every stream of the recipe's method."""
    data = recipe.data
    datasets = {"train": data.train or data.name, "ood": data.ood, PATCHES: data.ood}
    return {role: str(datasets[role]) for role in METHODS[recipe.method.name].streams}


def _open_stream(role: str, context: StreamContext, opened_streams: Mapping[str, TrainStream]) -> TrainStream:
    recipe, world = context.recipe, context.world
    data, batch = recipe.data, recipe.schedule.global_batch
    method = METHODS[recipe.method.name]
    source, labelled = sources(recipe)[role], role == "train"
    input_spec = train_spec(source, context.spec, context.data_root, labelled=labelled)
    augment = () if role == PATCHES else data.augment
    per_step = 1 if role == PATCHES else method.student_updates_per_step(recipe.method)
    images = _open_images(role, source, input_spec, context, opened_streams)
    logits = weights = None
    if isinstance(images, Images) and len(images.labels) and context.teacher is not None:
        assert context.teacher_sha256 is not None, "a teacher's weights have a sum"
        query = TeacherQuery(context.teacher, context.teacher_sha256, images, input_spec, f"{source}/train")
        cached = context.runtime.teacher_logits == "cached" and not augment
        if cached and method.asks_teacher_of_stream(recipe.method):
            logits = teacher_logits(query, world.share(batch), world, context.store)
        if data.ood_balanced and not labelled:
            classes = teacher_classes(query, world, context.store)
            weights = 1 / classes.bincount()[classes]
    if isinstance(images, Images) and not labelled and 0 < len(images.labels) < batch:
        # An order drawn anew for every image or two would take longer than the step.
        times = math.ceil(batch / len(images.labels))
        images = Images(images.pixels.repeat(times, 1, 1, 1), images.labels.repeat(times))
        logits = None if logits is None else logits.repeat(times, 1)
        weights = None if weights is None else weights.repeat(times)
    return TrainStream(
        images,
        input_spec,
        world,
        batch,
        recipe.seed,
        augment,
        teacher_logits=logits,
        weights=weights,
        per_step=per_step,
    )


def _open_images(
    role: str, source: str, input_spec: DataSpec, context: StreamContext, opened_streams: Mapping[str, TrainStream]
) -> Images | StreamedImages:
    """Load a stream's images, or open them to be read as needed; two streams of one data set share them."""
    recipe, world = context.recipe, context.world
    data = recipe.data
    ledger_role: Role = "train" if role == "train" else "ood"
    rows, _ = _split_rows(role, source, context)
    if data.buffer is not None:
        batch = recipe.schedule.global_batch
        share = {"seed": recipe.seed, "global_batch": batch, "share": world.slice(batch)}
        crop = data.random_crop and role != PATCHES
        options = {"buffer": data.buffer, "rows": rows, "random_crop": crop, **share}
        return world.agree(lambda: context.opened.stream(ledger_role, source, "train", input_spec, **options))
    ood_stream = opened_streams.get("ood") if role == PATCHES else None
    if ood_stream is not None:
        return ood_stream.images
    return world.agree(lambda: context.opened.open(ledger_role, source, "train", input_spec, rows))


def holdout_evaluator(context: StreamContext) -> Evaluator | None:
    """Return the evaluator on the images held out of the training stream, or None where none are.

    Of images of another domain the labels mean nothing to the teacher: they measure agreement alone.
    """
    datasets = sources(context.recipe)
    role = next((role for role in ("train", "ood") if role in datasets), None)
    if role is None or not context.recipe.data.holdout:
        return None
    input_spec = train_spec(datasets[role], context.spec, context.data_root, labelled=role == "train")
    _, rows = _split_rows(role, datasets[role], context)
    images = context.opened.open("train" if role == "train" else "ood", datasets[role], "train", input_spec, rows)
    return Evaluator(images, input_spec, context.world, context.teacher, labelled=role == "train")


def _split_rows(role: str, source: str, context: StreamContext) -> tuple[Tensor | None, Tensor]:
    """Return the rows of a data set to train on, None for all, and those held out; both ascending."""
    candidates = None if role == "train" else _ood_rows(source, context)
    share = context.recipe.data.holdout
    if not share:
        return candidates, torch.empty(0, dtype=torch.int64)
    candidates = torch.arange(count_images(source, "train", context.data_root)) if candidates is None else candidates
    # The same for every seed, so that students of several seeds are judged alike.
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(_HELD_OUT))
    count = max(1, round(share * len(candidates)))
    return candidates[order[count:]].sort().values, candidates[order[:count]].sort().values


def _ood_rows(source: str, context: StreamContext) -> Tensor | None:
    """Return the rows to use of the images of another domain, ascending, or None for all."""
    data = context.recipe.data
    if data.ood_index is not None:
        return best_rows(data.ood_index, source, data.ood_images, context.data_root, context.teacher_sha256)
    if data.ood_images is None:
        return None
    return torch.arange(min(data.ood_images, count_images(source, "train", context.data_root)))
