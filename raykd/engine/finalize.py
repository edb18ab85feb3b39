"""What a finished run writes: its result, the chosen student, its bank, and statistics for runs that build on it."""

import copy
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raykd.artifacts.bank import BankFiles, finish_bank, open_bank
from raykd.artifacts.calibration import keep_statistics
from raykd.artifacts.pool_files import finish_pool
from raykd.data.datasets import Images
from raykd.distributed.phases import rounded
from raykd.distributed.world import World, mix
from raykd.engine.build import Built
from raykd.engine.implied_pixels import implied_pixels
from raykd.engine.quality import ImageQuality, image_quality
from raykd.engine.rewind import describe_rewinds
from raykd.engine.samples import draw_means
from raykd.engine.selection import Selection
from raykd.engine.sentinel import CLASS_SPREAD, MEMBER_FIGURES, STRAGGLER, class_spread, find_warnings, kind_of
from raykd.errors import RaykdError
from raykd.files import replacing
from raykd.generators import EVERY
from raykd.generators.waves import Wave
from raykd.methods.base import BankMethod, PoolMethod
from raykd.models.compute import forward_macs
from raykd.models.graph import trace_graph
from raykd.models.permission import is_code
from raykd.models.teacher import Teacher
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe, selected_by
from raykd.results import (
    COVERAGE,
    MOST_MEANS,
    SELECTIONS,
    Breakdown,
    Figures,
    ImageStatistics,
    RunResult,
    why_not_judged,
)
from raykd.store.checkpoint import save_weights, step_name
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tensors import checksum_metadata

logger = logging.getLogger(__name__)

_IMAGES = 1024  # looked at to judge a method's images, and at least so many of a bank
_PER_CLASS = 16
_BATCH = 128
_HELD_OUT = 0x0B5E  # keeps these latents apart from training's


def finalize(
    experiment: Experiment, built: Built, selection: Selection, seconds: float, workspace: Workspace
) -> RunResult:
    """Write what others will use and return the result; every worker must call it."""
    world, recipe, run = built.method.world, experiment.recipe, workspace.run(experiment.run_id)
    has_student = "student" in built.method.roles
    figures, breakdown = _save_student(built, selection, run, recipe) if has_student else ({}, None)
    _write_breakdowns(built, breakdown, run)
    images = _measure_images(experiment, built, workspace)
    if images is not None:
        _write_image_statistics(images, built, run)
    quality = images.figures if images is not None else {}
    worst = {name: quality.pop(name) for name in MEMBER_FIGURES if name in quality}
    if world.rank == 0:
        _write_statistics(recipe, built, run)
    not_judged = why_not_judged({COVERAGE: selection.pool.coverage} if len(selection.pool) else {})
    if not_judged is not None and world.rank == 0:
        logger.warning("blind selection: %s", not_judged)
    status = world.agree(lambda: dict(run.status()), on_first=True)
    doubt = implied_pixels(built.teacher, built.spec)[1] if built.teacher is not None else None
    constants = [f"constants: {doubt}"] if doubt else []
    built.method.context.clock.charge("evaluation")
    gpus = world.size if world.device.type == "cuda" else 0
    return RunResult(
        run=experiment.run_id,
        seed=recipe.seed,
        selected=selected_by(recipe) if has_student else None,
        last=figures.get("last"),
        blind=figures.get("blind"),
        best=figures.get("best"),
        teacher=built.evaluator.score_teacher(),
        image_quality=quality,
        images=built.method.images_of(recipe.method, recipe.schedule.steps, recipe.schedule.global_batch),
        seconds=round(seconds, 2),
        teacher_forwards=_teacher_forwards(built),
        gpu_hours=round(seconds * gpus / 3600, 4),
        phases=rounded(built.method.context.clock.total()),
        data_opened=built.opened.by_role(),
        published=recipe.published,
        not_judged=not_judged,
        warnings=[*constants, *_collect_warnings(status, quality, worst, built.spec.num_classes)] or None,
        rewinds=status.get("rewinds") or None,
    )


def _teacher_forwards(built: Built) -> float | None:
    """Return what the run computed, in forward passes of its teacher for one image; every worker must call it."""
    macs = built.method.context.compute.total(built.method.world)
    if built.teacher is None or macs is None:
        return None
    shape = (1, built.spec.channels, built.spec.size, built.spec.size)
    return float(round(macs / forward_macs(built.teacher, torch.zeros(shape, device=built.method.world.device))))


def _collect_warnings(
    status: Mapping[str, Any], quality: Mapping[str, float], worst: Mapping[str, float], classes: int
) -> list[str]:
    """Return what the last report, the images made now and rewinds on the way say against the run.

    ``worst`` are the figures of the worst classes of the images made now, where these are made for classes.
    """
    row = dict(worst)
    if "classes" in quality and 5 * classes <= _IMAGES:
        row[CLASS_SPREAD] = class_spread(quality["classes"], classes)
    last = {kind_of(text): text for text in status.get("warnings") or [] if kind_of(text) != STRAGGLER}
    now = {kind_of(text): text for text in find_warnings([row])}
    return [*{**last, **now}.values(), *describe_rewinds(status.get("rewinds") or [])]


def _save_student(
    built: Built, selection: Selection, run: RunDirectory, recipe: Recipe
) -> tuple[dict[str, Figures], Breakdown | None]:
    """Score the selections once more and save the chosen weights; of the user's own network its graph too.

    Returns the figures of each selection, and how the chosen one answers the test split.

    Without a test split there is no oracle to score.
    """
    student, chosen, breakdown = built.method.student, selected_by(recipe), None
    figures = {}
    for name in SELECTIONS if built.evaluator.images is not None else SELECTIONS[:2]:
        student.load_state_dict(selection.weights[name])
        if name == chosen:
            found, breakdown = built.evaluator.score_in_detail(student)
        else:
            found = built.evaluator.score(student)
        measured = {"step": selection.steps[name], **found, **selection.figures(name)}
        figures[name] = Figures.from_dict(measured)
    student.load_state_dict(selection.weights[chosen])

    def save() -> None:
        with run.writing(), replacing(run.student) as staging:
            weights = selection.weights[chosen]
            save_weights(weights, staging, checksum_metadata(weights, built.spec.to_dict()))
        graph = None
        if recipe.student is not None and is_code(recipe.student):
            graph = trace_graph(student, (built.spec.channels, built.spec.size, built.spec.size))
        if graph is not None:
            with run.writing(), replacing(run.graph) as staging:
                save_weights(graph[0], staging, graph[1])

    built.method.world.agree(save, on_first=True)
    return figures, breakdown


def _write_breakdowns(built: Built, student: Breakdown | None, run: RunDirectory) -> None:
    """Keep how the chosen student and its teacher answer the test split; every worker must call it."""
    teacher = built.evaluator.break_down_teacher()
    found = {name: one for name, one in (("student", student), ("teacher", teacher)) if one is not None}

    def save() -> None:
        with run.writing():
            run.write_breakdowns(found)

    if student is not None:
        built.method.world.agree(save, on_first=True)


def _write_image_statistics(found: ImageQuality, built: Built, run: RunDirectory) -> None:
    """Keep what the images look like on average and to the teacher; every worker must call it."""

    def save() -> None:
        means = draw_means(found.means[:MOST_MEANS], built.spec)
        with run.writing():
            run.write_image_statistics(ImageStatistics(tuple(found.images.tolist()), tuple(means), found.gaps))

    built.method.world.agree(save, on_first=True)


def _measure_images(experiment: Experiment, built: Built, workspace: Workspace) -> ImageQuality | None:
    """Return the quality of the images that the method makes, if it does, having finished its bank if it trains one."""
    method, world = built.method, built.method.world
    if built.teacher is None:
        return None
    seed = mix(experiment.recipe.seed, _HELD_OUT)
    if isinstance(method, BankMethod):
        name, run = experiment.run_id, workspace.run(experiment.run_id)
        workspace.pull([name], world, checkpoints="none")  # members that workers of other machines have made
        finish_bank(run, {**method.products_manifest(), "teacher_sha256": built.teacher_sha256}, world)
        workspace.push(name, world)
        workspace.pull([name], world, checkpoints="none")
        return image_quality(_bank_batches(open_bank(run), world, seed), built.teacher, built.spec.num_classes, world)
    if isinstance(method, PoolMethod):
        world.agree(partial(_finish_pool, experiment, built, workspace.run(experiment.run_id)), on_first=True)
    if not method.makes_images:
        return None
    share = method.sample(_IMAGES, seed)[world.rank :: world.size]
    return image_quality(((batch, None) for batch in share.split(_BATCH)), built.teacher, built.spec.num_classes, world)


def _finish_pool(experiment: Experiment, built: Built, run: RunDirectory) -> None:
    """Say which files are the pool of a finished run, and of which teacher and seed its images are.

    The last checkpoint names them; those that workers of other machines have made are in the store.
    """
    checkpoint = run.checkpoints / step_name(built.method.steps_done)
    finish_pool(run, checkpoint, {"teacher_sha256": built.teacher_sha256, "seed": experiment.recipe.seed})


def _bank_batches(files: BankFiles, world: World, seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield equally many images of every class, this worker's share of the classes, a few members at a time."""
    per_class = max(_PER_CLASS, _IMAGES // files.num_classes)
    classes = Wave(0, tuple(range(files.num_classes))).share(world.rank, world.size)
    if world.size > files.num_classes:  # one generator, many workers: each looks at all classes
        classes, seed = tuple(range(files.num_classes)), mix(seed, world.rank)
    members_at_once = max(1, _BATCH // per_class)
    for first in range(0, len(classes), members_at_once):
        group = classes[first : first + members_at_once]
        bank = files.load(files.classes if EVERY in files.classes else group).to(world.device)
        labels = torch.tensor(group, device=world.device).repeat_interleave(per_class)
        generator = torch.Generator().manual_seed(mix(seed, group[0]))
        z = torch.randn(len(labels), bank.latent_dim, generator=generator).to(world.device)
        targets = labels if bank.conditions or EVERY not in files.classes else None
        with torch.no_grad():
            yield bank.mixed(z, labels), targets


def _write_statistics(recipe: Recipe, built: Built, run: RunDirectory) -> None:
    """Write the class-conditional statistics of a network that learnt from labelled data, if it has BatchNorm."""
    stream = built.streams.get("train")
    if stream is None or built.teacher is not None or not isinstance(stream.images, Images):
        return
    teacher = Teacher(copy.deepcopy(built.method.student), channels=built.spec.channels, size=built.spec.size)
    if not teacher.batch_norms:
        return
    try:
        keep_statistics(run.statistics, teacher, run.student, stream.images, built.spec, recipe.data.name)
    except RaykdError as error:  # a by-product: the run itself has all it was made for
        logger.warning("no class-conditional statistics of this network are kept: %s", error)
