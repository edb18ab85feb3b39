"""One run from experiment to result, in a store of runs; the same call resumes, and a finished run is only read.

<store>/<run id>/   see raykd.store.run_directory
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from raykd.artifacts.bank import check_products, open_bank
from raykd.artifacts.pool_files import sweep_parts
from raykd.config.runtime import Runtime
from raykd.distributed.provenance import describe_environment
from raykd.distributed.world import World
from raykd.engine.build import Built, build, check, embeddings_file_sum, teacher_file_sum
from raykd.engine.disk import require_space
from raykd.engine.finalize import finalize
from raykd.engine.finite import Unhealthy
from raykd.engine.fit import fit
from raykd.engine.implied_pixels import implied_pixels
from raykd.engine.reporter import Reporter
from raykd.engine.rewind import begin_rewind, rewinding_to, rewinds_of
from raykd.engine.selection import Selection
from raykd.engine.sentinel import Sentinel
from raykd.engine.stop import Interrupted, TakenOver
from raykd.engine.synthesis import make_image_sets
from raykd.errors import RaykdError, SetupError, UsageError
from raykd.files import MANIFEST, read_json, sha256_of
from raykd.models.permission import permit
from raykd.recipe.experiment import Experiment
from raykd.recipe.published_teacher import find_contradictions
from raykd.recipe.recipe import Recipe
from raykd.results import RunResult
from raykd.store.checkpoint import UnfitCheckpoint, remove_after, step_of
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)


class _Rewound(RaykdError):
    """The run goes on from an earlier checkpoint."""


@dataclass(frozen=True)
class RunContext:
    """What a run needs besides its experiment: workers, folders, precision and the like, and where it reports."""

    world: World
    workspace: Workspace
    runtime: Runtime
    make_reporter: Callable[[RunDirectory], Reporter]
    until: int | None = None
    """Step, one of a report, after which the run is interrupted, to be continued later."""


def run(experiment: Experiment, context: RunContext) -> RunResult:
    """Train a run, its teacher and its bank first if they are runs, its controls after.

    Every worker calls this, and every worker gets the run's result. The experiment is one of the user's recipes: code
    that it names may run.

    Raises:
        Interrupted: when a stop was asked for, or at ``context.until``; everything up to that step is saved.
        RaykdError: for what the user must correct.
    """
    permit(experiment.networks)
    for source in experiment.sources:
        if _is_finished(source, context):
            context.world.agree(partial(check_files, source, context.workspace), on_first=True)
        else:
            check(experiment, context.world, context.workspace)
            logger.info("run %s, which this one builds on, is not finished: training it first", source.run_id)
            run(source, replace(context, until=None))
    # Workers of other machines may have written what this one will read.
    context.workspace.pull(experiment.built_upon, context.world)
    result = _run_one(experiment, context)
    controls = {}
    for control in experiment.controls:
        logger.info("control beside it: %s", control.run_id)
        controls[control.recipe.name] = run(control, replace(context, until=None))
    return replace(result, controls=controls) if controls else result


def _is_finished(experiment: Experiment, context: RunContext) -> bool:
    directory = context.workspace.run(experiment.run_id)
    context.workspace.pull([experiment.run_id], context.world)
    return context.world.agree(lambda: directory.is_finished, on_first=True)


def _run_one(experiment: Experiment, context: RunContext) -> RunResult:
    world, workspace = context.world, context.workspace
    directory = workspace.run(experiment.run_id)
    with ExitStack() as held:
        world.agree(lambda: held.enter_context(directory.held()), on_first=True)
        workspace.pull([experiment.run_id], world)
        finished = world.agree(directory.result, on_first=True)
        if finished is not None:
            world.agree(lambda: check_files(experiment, workspace), on_first=True)
            logger.info("%s is finished already: reading its result", experiment.run_id)
            return finished
        world.agree(workspace.sweep, on_first=True)
        make_image_sets(experiment, world, workspace)
        built, selection, seconds = _train_from_newest(experiment, context, context.make_reporter(directory))
        result = finalize(experiment, built, selection, seconds, workspace)
        steps = built.method.steps_done
        world.agree(lambda: _close(directory, result, steps), on_first=True)
        workspace.push(experiment.run_id, world)
        return result


def check_files(experiment: Experiment, workspace: Workspace) -> None:
    """Refuse the result of a finished run of which a file holds something else by now: it is not of these files.

    They are the teacher's weights, and embeddings of labels. A run's id has a file's name. Where the file is gone the
    result stands, and so it does where the teacher is a run, of which the id has all that decides it.

    Raises:
        UsageError: with both sums.
    """
    environment, recipe = workspace.run(experiment.run_id).environment(), experiment.recipe
    if recipe.teacher is not None and experiment.teacher is None:
        found = teacher_file_sum(experiment, workspace)
        what = f"{recipe.teacher.weights} was replaced since: its teacher's weights", "weights"
        _check_file(experiment, environment.get("teacher_sha256"), found, *what)
    if (name := getattr(recipe.method, "embeddings", None)) is not None:
        found = embeddings_file_sum(recipe, workspace)
        what = f"{name} was replaced since: its embeddings", "embeddings"
        _check_file(experiment, environment.get("embeddings_sha256"), found, *what)


def _check_file(experiment: Experiment, trained: str | None, found: str | None, what: str, noun: str) -> None:
    if None not in (trained, found) and trained != found:
        raise UsageError(
            f"run {experiment.run_id} is finished, and {what} had sha256 {trained}, now it is {found}. Give the new "
            f"{noun} a name of their own, or another store by --out; to read the old result, put the old file back or "
            "use `raykd evaluate`"
        )


def _check_generators(experiment: Experiment, workspace: Workspace) -> None:
    """Refuse generators that were trained against other weights than those of this run's teacher.

    Raises:
        UsageError: with both sums.
        CorruptError: if the bank's manifest, or the teacher, is damaged.
    """
    images = experiment.training_set
    if images is not None:
        what = f"the set {images.name}"
        manifest = read_json(workspace.store / images.name / MANIFEST, "remove that folder to have the set made again")
    elif experiment.bank_id is not None:
        what = f"the bank of run {experiment.bank_id}"
        manifest = dict(open_bank(workspace.run(experiment.bank_id)).manifest)
    else:
        return
    trained, found = manifest.get("teacher_sha256"), teacher_file_sum(experiment, workspace)
    if None not in (trained, found) and trained != found:  # what earlier releases made does not tell
        if experiment.teacher is not None:
            workspace.run(experiment.teacher.run_id).check_student(experiment.teacher.recipe)
        raise UsageError(
            f"{what} was made with a teacher of other weights than that of run {experiment.run_id} (sha256 {trained} "
            f"then, {found} here): put those weights back, or use another store, in which the generators are trained "
            "with these"
        )


def _train_from_newest(
    experiment: Experiment, context: RunContext, reporter: Reporter
) -> tuple[Built, Selection, float]:
    """Train a run to its end from the newest checkpoint that fits it."""
    world, directory = context.world, context.workspace.run(experiment.run_id)
    before: int | None = None
    while True:
        _finish_rewind(directory, context)
        resume = world.agree(partial(reporter.resume_from, before), on_first=True)
        world.agree(partial(sweep_parts, directory, resume))  # on every machine
        if resume is not None:
            check_products(directory, world)
        try:
            return _train_segments(experiment, context, reporter, resume)
        except _Rewound as rewound:
            before = None
            if world.rank == 0:
                logger.warning("%s", rewound)
        except UnfitCheckpoint as error:
            if resume is None:
                raise
            if world.rank == 0:
                logger.warning("%s; using the one before it", error)
            before = step_of(resume)


def _finish_rewind(directory: RunDirectory, context: RunContext) -> None:
    """Remove, on every machine, the checkpoints that a rewind goes back behind: one of now, or of before a kill."""
    world = context.world
    step = world.agree(partial(rewinding_to, directory), on_first=True)
    if step is not None:
        world.agree(lambda: remove_after(directory.checkpoints, step))
        context.workspace.push(directory.name, world)
        context.workspace.pull([directory.name], world)


def _train_segments(
    experiment: Experiment, context: RunContext, reporter: Reporter, resume: Path | None
) -> tuple[Built, Selection, float]:
    world = context.world
    trained: tuple[Built, Selection, float] | None = None
    for segment, end in experiment.recipe.segments():
        leave = context.until is not None and (end is None or context.until <= end)
        if not leave and end is not None and resume and step_of(resume) >= end:
            continue
        trained = None  # its memory is the next one's
        trained = _train(segment, experiment, context, reporter, resume, context.until if leave else end, leave)
        if end is not None:
            resume = world.agree(reporter.resume_from, on_first=True)
    assert trained is not None, "the last segment is never left out"
    return trained


def _train(
    segment: Recipe,
    experiment: Experiment,
    context: RunContext,
    reporter: Reporter,
    resume: Path | None,
    end: int | None,
    leave: bool,
) -> tuple[Built, Selection, float]:
    """Train one segment of a run; where it ends early, write why into the run's status."""
    world, directory = context.world, context.workspace.run(experiment.run_id)
    rewinds = world.agree(partial(rewinds_of, directory), on_first=True)
    segment = segment.rewound(len(rewinds))
    if world.rank == 0:
        logger.info("%s: reading networks and data, and measuring the teacher, before the first step", directory.name)
    built = build(experiment.with_recipe(segment), world, context.runtime, context.workspace)
    step = step_of(resume) if resume else 0
    since = rewinds[-1]["to"] if rewinds else 0
    rows = world.agree(lambda: _open(directory, experiment, built, context, step, since), on_first=True)
    sentinel = Sentinel(segment.sentinel, rows, since=since, standing=built.warnings)
    try:
        if built.referee is not None:
            built.referee.check()
        selection, seconds = fit(
            built.method,
            built.streams,
            built.teacher,
            built.evaluator,
            schedule=experiment.recipe.schedule,
            reporter=reporter,
            sentinel=sentinel,
            resume=resume,
            until=end,
        )
        if leave:
            raise Interrupted(built.method.steps_done, built.method.total_steps)
    except (UnfitCheckpoint, TakenOver):
        raise  # the run goes on: from another checkpoint, or elsewhere
    except RaykdError as error:
        if isinstance(error, Unhealthy) and segment.sentinel.policy == "rewind":
            # Shards of workers of other machines, without which no checkpoint here is whole.
            context.workspace.pull([directory.name], world)
            if world.agree(partial(begin_rewind, directory, sentinel, error), on_first=True):
                raise _Rewound(f"{error}: {experiment.run_id} goes back to its last good checkpoint") from error
        if world.rank == 0:
            state = "interrupted" if isinstance(error, Interrupted) else "failed"
            with suppress(RaykdError, OSError):  # what ended the run is what is told
                directory.write_status(state=state, reason=str(error))
            # Without the other workers, who may not have failed; a SetupError may be the store's own.
            if context.workspace.mirror is not None and not isinstance(error, SetupError):
                with suppress(SetupError):
                    context.workspace.mirror.push(experiment.run_id)
        raise
    return built, selection, seconds


def _open(
    directory: RunDirectory, experiment: Experiment, built: Built, context: RunContext, step: int, since: int
) -> list[dict[str, Any]]:
    """Write recipe, environment and status into the run directory on rank 0, before training.

    Returns:
        The rows of the reports so far; a plateau counts from the step ``since``.

    Raises:
        UsageError: if the run would continue with another teacher than it began with, or than its generators had.
        SetupError: if the disk cannot be written, or has not the room for what is to come.
    """
    _check_generators(experiment, context.workspace)
    if built.teacher is not None and (doubt := implied_pixels(built.teacher, built.spec)[1]):
        logger.warning("constants: %s", doubt)
    if experiment.recipe.teacher is not None:
        for text in find_contradictions(built.spec, experiment.recipe.teacher):
            logger.warning("constants: %s", text)
    sums = {"teacher_sha256": built.teacher_sha256, "embeddings_sha256": built.embeddings_sha256}
    previous = directory.environment() if step else {}
    for key, what in (("teacher_sha256", "the teacher's weights"), ("embeddings_sha256", "the method's embeddings")):
        if previous.get(key, sums[key]) != sums[key]:
            raise UsageError(
                f"{what} are not those that run {directory.name} began with "
                f"(sha256 {previous[key]} then, {sums[key]} now): put them back, or use another store"
            )
    require_space(experiment, built, context.workspace)
    environment = {
        **describe_environment(context.world),
        "data_opened": built.opened.by_role(),
        **sums,
    }
    if built.teacher is not None and built.teacher_sha256 is not None and experiment.teacher is None:
        context.workspace.keep_weights(built.teacher_sha256, built.teacher.network)
    if step:
        logger.info("%s goes on from step %d", experiment.run_id, step)
    for text in built.warnings:
        logger.warning("%s", text)
    directory.write_opening(experiment, built.spec, environment, step=step, steps=built.method.total_steps)
    rows = directory.rows()
    with directory.writing():  # a run that was killed may have said less than its rows do
        said = Sentinel(experiment.recipe.sentinel, rows, since=since, standing=built.warnings).warnings
        directory.write_status(warnings=said)
    return rows


def _close(directory: RunDirectory, result: RunResult, step: int) -> None:
    """Say that the run is finished, with its result and the sum of its student's weights."""
    student = {"student_sha256": sha256_of(directory.student)} if directory.student.is_file() else {}
    with directory.writing():
        at = {"step": step, "current_step": step, "phases": dict(result.phases or {})}
        directory.write_status(state="finished", **at, result=result.to_dict(), **student)
