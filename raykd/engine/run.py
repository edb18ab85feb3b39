"""One run from recipe to result, in a store of runs; the same call resumes, and a finished run is only read.

<store>/<run id>/   see raykd.engine.reporter
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raykd.config.runtime import Runtime
from raykd.distributed.provenance import describe
from raykd.distributed.world import World
from raykd.engine.build import Built, build, check
from raykd.engine.finalize import finalize
from raykd.engine.fit import fit
from raykd.engine.reporter import Reporter
from raykd.engine.selection import Selection
from raykd.engine.stop import Interrupted
from raykd.engine.synthesis import make_frozen_sets
from raykd.errors import InProgress, RaykdError, SetupError, UsageError
from raykd.recipe.recipe import Recipe, built_upon, control_runs, dump_recipe, entailed_runs, source_runs
from raykd.store.checkpoint import step_of, write_text
from raykd.store.run_directory import read_status, rewind_metrics, write_status
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_LOCK = ".lock"


@dataclass(frozen=True)
class RunContext:
    """Where a run happens: who we are, where things lie, how the arithmetic runs, whom to tell."""

    world: World
    workspace: Workspace
    runtime: Runtime
    make_reporter: Callable[[Path], Reporter]
    until: int | None = None
    """Step of the run, a report's, behind which it is left to be continued."""


def run(recipe: Recipe, context: RunContext) -> dict[str, Any]:
    """Train what the recipe says, its teacher and its bank first if they are runs, its controls after.

    Every worker calls this, and every worker gets the run's result.

    Raises:
        Interrupted: when a stop was asked for, or at ``place.until``; everything up to that step is saved.
        RaykdError: for what the user must mend.
    """
    entailed_runs(recipe)  # a slip in any of them should show before hours of the first
    for source in source_runs(recipe):
        if not _is_finished(source, context):
            check(recipe, context.world, context.workspace)
            logger.info("run %s, which this one builds on, is not finished: training it first", source.run_id)
            run(source, replace(context, until=None))
    # Workers of other machines may have written what this one will read.
    context.workspace.pull(built_upon(recipe), context.world)
    result = _run_one(recipe, context)
    controls = {}
    for control in control_runs(recipe):
        logger.info("control beside it: %s", control.run_id)
        controls[control.name] = run(control, replace(context, until=None))
    return {**result, "controls": controls} if controls else result


def _is_finished(recipe: Recipe, context: RunContext) -> bool:
    context.workspace.pull([recipe.run_id], context.world)
    directory = context.workspace.store / recipe.run_id
    return context.world.agree(lambda: read_status(directory).get("state") == "finished", on_first=True)


def _run_one(recipe: Recipe, context: RunContext) -> dict[str, Any]:
    world, directory = context.world, context.workspace.store / recipe.run_id
    with _alone_in(directory, world):
        if _is_finished(recipe, context):
            logger.info("%s is finished already: reading its result", recipe.run_id)
            result: dict[str, Any] = world.agree(lambda: read_status(directory)["result"], on_first=True)
            return result
        make_frozen_sets(recipe, world, context.workspace)
        reporter = context.make_reporter(directory)
        resume = _resume_point(reporter, world)
        trained: tuple[Built, Selection, float] | None = None
        for part, end in recipe.segments():
            leave = context.until is not None and (end is None or context.until <= end)
            if not leave and end is not None and resume and step_of(resume) >= end:
                continue
            trained = None  # its memory is the next one's
            trained = _train(part, recipe, context, reporter, resume, context.until if leave else end, leave)
            if end is not None:
                resume = _resume_point(reporter, world)
        assert trained is not None, "the last stretch is never left out"
        built, selection, seconds = trained
        result = finalize(recipe, built, selection, seconds, context.workspace)
        if world.rank == 0:
            write_status(directory, state="finished", step=built.method.steps_done, result=result)
        context.workspace.push(recipe.run_id, world)
        return result


def _train(
    part: Recipe,
    recipe: Recipe,
    context: RunContext,
    reporter: Reporter,
    resume: Path | None,
    end: int | None,
    leave: bool,
) -> tuple[Built, Selection, float]:
    """Train one stretch of a recipe, and note why the run does not go on if it does not."""
    world, directory = context.world, context.workspace.store / recipe.run_id
    built = build(part, world, context.runtime, context.workspace)
    _open_directory(directory, recipe, built, world, resume)
    try:
        selection, seconds = fit(
            built.method,
            built.streams,
            built.teacher,
            built.evaluator,
            schedule=recipe.schedule,
            reporter=reporter,
            resume=resume,
            until=end,
        )
        if leave:
            raise Interrupted(built.method.steps_done, built.method.total_steps)
    except RaykdError as error:
        if world.rank == 0:
            state = "interrupted" if isinstance(error, Interrupted) else "failed"
            write_status(directory, state=state, reason=str(error))
            # Without the other workers, who may not have failed; a SetupError may be the store's own.
            if context.workspace.mirror is not None and not isinstance(error, SetupError):
                with suppress(SetupError):
                    context.workspace.mirror.push(recipe.run_id)
        raise
    return built, selection, seconds


@contextmanager
def _alone_in(directory: Path, world: World) -> Iterator[None]:
    """Hold the run directory for this job: a second one would tear its checkpoints."""
    with ExitStack() as held:
        world.agree(lambda: _lock(directory, held), on_first=True)
        yield


def _lock(directory: Path, held: ExitStack) -> None:
    """Make the run directory and lock it until ``held`` is closed, where the file system knows locks.

    Raises:
        InProgress: if another process holds it, or has removed it just now.
    """
    try:
        with ExitStack() as opened:
            directory.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context((directory / _LOCK).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError as error:  # some network file systems know no locks
                logger.warning("run %s cannot be locked (%s): let no second job use it", directory.name, error)
                return
            if os.path.samestat(os.fstat(lock.fileno()), (directory / _LOCK).stat()):
                held.enter_context(opened.pop_all())
                held.callback(_remove_if_unused, directory)
                return
    except (BlockingIOError, FileExistsError, FileNotFoundError):
        if directory.is_file():
            raise
    raise InProgress(
        f"run {directory.name} is in progress in another process; wait for it, "
        "or give this one another seed or another --out"
    )


def _remove_if_unused(directory: Path) -> None:
    """Remove the directory of a run that was refused before it wrote anything."""
    with suppress(OSError):
        if os.listdir(directory) == [_LOCK]:
            (directory / _LOCK).unlink()
            directory.rmdir()


def _resume_point(reporter: Reporter, world: World) -> Path | None:
    """Let rank 0 find the checkpoint, and fail on all workers alike if it cannot."""
    return world.agree(reporter.resume_from, on_first=True)


def _open_directory(directory: Path, recipe: Recipe, built: Built, world: World, resume: Path | None) -> None:
    """Bring the run directory in order on rank 0, before anybody writes to it."""

    def open_directory() -> None:
        if resume:
            _check_teacher(directory, built)
        _write_opening(directory, recipe, built, world, step_of(resume) if resume else 0)

    world.agree(open_directory, on_first=True)


def _check_teacher(directory: Path, built: Built) -> None:
    """Refuse to go on with another teacher than the one that the run began with.

    Raises:
        UsageError: if its weights are others.
    """
    try:
        before = json.loads((directory / "environment.json").read_text())["teacher_sha256"]
    except (OSError, ValueError, KeyError):
        return
    if before != built.teacher_sha256:
        raise UsageError(
            f"the teacher's weights are not those that run {directory.name} began with "
            f"(sha256 {before} then, {built.teacher_sha256} now): put them back, or use another --out"
        )


def _write_opening(directory: Path, recipe: Recipe, built: Built, world: World, step: int) -> None:
    write_text(directory / "recipe.yaml", dump_recipe(recipe))
    environment = {
        **describe(world),
        "data_opened": built.opened.by_role(),
        "teacher_sha256": built.teacher_sha256,
    }
    write_text(directory / "environment.json", json.dumps(environment, indent=1))
    rewind_metrics(directory, step)
    if step:
        logger.info("%s goes on from step %d", recipe.run_id, step)
    write_status(directory, state="running", step=step, steps=built.method.total_steps, reason=None)
