"""One of two gloo workers of a run in which one of them cannot do its part.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.engine.failing_pair FOLDER
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from raykd.artifacts import calibration
from raykd.artifacts.bank import finish_bank
from raykd.config.runtime import Runtime
from raykd.data.datasets import Images
from raykd.data.ledger import OpenedData
from raykd.distributed.progress import PROGRESS
from raykd.distributed.world import World
from raykd.engine.pace import Pace
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.synthesis import make_image_sets
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.checkpoint import Checkpoint
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.methods.toy import SPEC, made_teacher
from tests.worker_pair import outcome


def calibrate(world: World, folder: Path) -> None:
    """Collect statistics by class of a set whose class 2 has a single image."""
    labels = torch.tensor([0, 0, 1, 1, 2, 3, 3])
    images = Images(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels)
    recipe = load_recipe("lsgdfd_digits_bank", ["calibration={per_class: 2}"])
    with mock.patch.object(calibration, "load_images", return_value=images):
        calibration.class_statistics(
            resolve(recipe), made_teacher(), None, SPEC, world, OpenedData(None), Workspace(None, folder)
        )


def report(world: World, folder: Path) -> None:
    """Report twice; the second time worker 1 has a generator to write where a file is in the way."""
    reporter = LocalReporter(RunDirectory(folder / "run"), world=world)
    reporter.report({"step": 1}, Checkpoint(1, 2, {}, {}))
    folder.joinpath("run", "bank").touch()
    products = {"class_00000": {"w": torch.ones(1)}} if world.rank == 1 else {}
    reporter.report({"step": 2}, Checkpoint(2, 2, {}, {}, products=products))


def resume(world: World, folder: Path) -> Path | None:
    """Look for a checkpoint where the only one is torn."""
    folder.joinpath("torn", "checkpoints", "step_0000001").mkdir(parents=True, exist_ok=True)
    return world.agree(LocalReporter(RunDirectory(folder / "torn"), world=world).resume_from, on_first=True)


def lock(world: World, folder: Path) -> None:
    """Take a run that another process holds."""
    experiment, workspace = resolve(load_recipe("supervised_digits_lenet5")), Workspace(None, folder)
    with ExitStack() as held:
        if world.rank == 0:
            held.enter_context(workspace.run(experiment.run_id).held())
        world.broadcast(None)  # by now it is held
        run(experiment, RunContext(world, workspace, Runtime(), lambda run: LocalReporter(run, world=world)))


def freeze(world: World, folder: Path) -> None:
    """Make a set of the generators of a run that does not exist."""
    recipe = load_recipe("kd_digits", ["bank={run: absent-s0, images: 4}", "controls=[]"])
    make_image_sets(resolve(recipe), world, Workspace(None, folder))


def close_bank(world: World, folder: Path) -> None:
    """Close a bank of which worker 1 does not see a member."""
    finish_bank(RunDirectory(folder / f"machine-{world.rank}"), {"classes": [0]}, world)


def lag(world: World, folder: Path) -> list[dict[str, float] | str | None]:
    """Measure twice how worker 1 keeps the other waiting."""
    pace, found = Pace(world, 0), list[dict[str, float] | str | None]()
    for _ in range(2):
        time.sleep(0.5 * world.rank)
        world.gather_objects(None)
        found.append(pace.waiting())
        found.append(PROGRESS.straggler)
        pace.go_on()
    return found


CASES: tuple[Callable[[World, Path], Any], ...] = (calibrate, report, resume, lock, freeze, close_bank, lag)


def main(folder: Path) -> None:
    """Fail in all ways in turn."""
    torch.set_num_threads(1)
    world = World.current()
    found = {case.__name__: outcome(partial(case, world, folder)) for case in CASES}
    (folder / f"{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
