"""One of two gloo workers, each on a machine of its own: its part of an object store is a folder that others lack.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.store.two_machines STORE FOLDER RECIPE
"""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from raykd.distributed.world import World
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import run
from raykd.engine.stop import Interrupted
from raykd.recipe.experiment import resolve
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace, open_workspace
from tests.golden.shrunk import shrunk

STEPS = 4
RECIPES = {
    "lsgdfd_digits_bank": ["schedule.report_every=2"],
    "fast_digits": [
        "schedule.report_every=2",
        "method.generator_maps=[8,8]",
        "method.inner_steps=2",
        "method.warmup_calls=1",
        "method.student_steps=2",
    ],
}


def main(store: str, folder: Path, name: str) -> None:
    """Train a small run, each worker half of it, in two parts; the machines change places in between."""
    world = World.current()
    for until in (2, None):
        os.environ["RAYKD_CACHE"] = str(folder / f"machine-{world.rank if until else 1 - world.rank}")
        workspace = open_workspace(store, None)
        with shrunk(STEPS, folder) as (place, load):
            recipe = load(name, RECIPES[name])
            here = replace(
                place, world=world, workspace=workspace, until=until, make_reporter=_reporter(world, workspace)
            )
            with nullcontext() if until is None else suppress(Interrupted):
                run(resolve(recipe), here)


def _reporter(world: World, workspace: Workspace) -> Callable[[RunDirectory], LocalReporter]:
    return lambda run: LocalReporter(run, world=world, mirror=workspace.mirror)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
