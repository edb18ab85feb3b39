"""A run in this process, which may be alone, one of torchrun's, or a worker that Ray has started."""

from collections.abc import Callable

from raykd.config.runtime import Runtime
from raykd.distributed.host import float32_products, prepare_host
from raykd.distributed.world import World
from raykd.engine.reporter import LocalReporter, Reporter
from raykd.engine.run import RunContext, run
from raykd.recipe.experiment import Experiment
from raykd.results import RunResult
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

MakeReporter = Callable[[RunDirectory, World], Reporter]


def run_here(
    experiment: Experiment,
    workspace: Workspace,
    runtime: Runtime,
    *,
    should_stop: Callable[[], bool],
    make_reporter: MakeReporter | None = None,
    until: int | None = None,
    tune_host: bool = True,
) -> RunResult:
    """Train, or go on with, a run in this process, and return its result.

    Args:
        experiment: what is trained; what it builds on is trained first.
        workspace: where runs and data are.
        runtime: how the arithmetic runs; its ``threads`` are this process's.
        should_stop: asked about twice a second whether to save and stop.
        make_reporter: who is told how a run goes; default: who writes the run directory.
        until: step behind which the run is left to be continued.
        tune_host: whether allocator, threads and matrix products of this process may be set for speed; for a process
            that belongs to somebody else they are left alone.

    Raises:
        RaykdError: as ``raykd.engine.run.run``.
    """
    if tune_host:
        prepare_host(runtime.threads)
    world = World.current(runtime.precision)

    def local(directory: RunDirectory) -> Reporter:
        if make_reporter is not None:
            return make_reporter(directory, world)
        return LocalReporter(directory, should_stop, world, workspace.mirror)

    with float32_products(runtime.precision, world.device):
        return run(experiment, RunContext(world, workspace, runtime, local, until))
