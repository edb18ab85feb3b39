"""One of two gloo workers, each on a machine of its own: its part of an object store is a folder that others lack.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.engine.two_machines STORE FOLDER
"""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from raykd.engine.report import LocalReporter
from raykd.engine.roots import Roots, roots_at
from raykd.engine.run import run
from raykd.engine.stop import Interrupted
from raykd.parallel import World
from tests.golden.shrunk import shrunk

STEPS = 4


def main(store: str, folder: Path) -> None:
    """Train a small bank, each worker half of its members, in two parts; the machines change places in between."""
    world = World.current()
    for until in (2, None):
        os.environ["RAYKD_CACHE"] = str(folder / f"machine-{world.rank if until else 1 - world.rank}")
        roots = roots_at(store, None)
        with shrunk(STEPS, folder) as (place, load):
            recipe = load("lsgdfd_digits_bank", ["schedule.report_every=2"])
            here = replace(place, world=world, roots=roots, until=until, make_reporter=_reporter(world, roots))
            with nullcontext() if until is None else suppress(Interrupted):
                run(recipe, here)


def _reporter(world: World, roots: Roots) -> Callable[[Path], LocalReporter]:
    return lambda path: LocalReporter(path, world=world, mirror=roots.mirror)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
