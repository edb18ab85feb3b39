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
from raykd.distributed.phases import PhaseClock
from raykd.distributed.progress import PROGRESS
from raykd.distributed.world import World
from raykd.engine.finite import FiniteGuard
from raykd.engine.pace import Pace
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.synthesis import make_image_sets
from raykd.methods.lsgdfd import Lsgdfd
from raykd.models.teacher import Teacher
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.checkpoint import Checkpoint
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.methods.toy import SPEC, made_batches, made_method, made_setting, made_teacher
from tests.worker_pair import outcome


def calibrate(world: World, folder: Path) -> None:
    """Collect statistics by class of a set whose class 2 has a single image."""
    labels = torch.tensor([0, 0, 1, 1, 2, 3, 3])
    images = Images(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels)
    recipe = load_recipe("lsgdfd_digits_bank", ["calibration={per_class: 2}"])
    with mock.patch.object(calibration, "stored_images", return_value=images):
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


def _poisoned(world: World, ranks: tuple[int, ...], name: str) -> Any:
    """Train a method by steps in the third of which some workers' images are bad, until the guard sees it."""
    method = made_method(name, made_setting(world=world))
    guard, weights = FiniteGuard(method), {}
    original = method.context.networks["teacher"].forward

    def forward(images: torch.Tensor) -> Any:
        logits, features = original(images)
        return (logits * torch.nan if method.steps_done == 3 and world.rank in ranks else logits), features

    with mock.patch.object(Teacher, "forward", lambda self, images: forward(images)):
        for step in range(5):
            if step == 2:
                weights = {key: value.clone() for key, value in method.student.named_parameters()}
            guard.note(method.step(made_batches(method, step)))
    assert all(torch.equal(value, weights[key]) for key, value in method.student.named_parameters())
    guard.check_updates()


def poison_one(world: World, folder: Path) -> None:
    """Worker 1 alone has a term that is not finite."""
    _poisoned(world, (1,), "noise")


def poison_all(world: World, folder: Path) -> None:
    """Both have."""
    _poisoned(world, (0, 1), "noise")


def poison_gradient(world: World, folder: Path) -> None:
    """All terms are finite, and a gradient of worker 1 is not."""
    method = made_method("dafl", made_setting(world=world))
    guard, updater = FiniteGuard(method), method.updaters["generator"]
    original = updater.step

    def step(gradients: Any) -> None:
        bad = world.rank == 1 and method.steps_done == 2
        original([gradient / 0 if bad else gradient for gradient in gradients])

    with mock.patch.object(updater, "step", step):
        for _ in range(3):
            guard.note(method.step({}))
    guard.check_updates()


def poison_bank(world: World, folder: Path) -> None:
    """Workers of a bank share no gradient: worker 1's generators alone are not finite, and both stop."""
    method = made_method("lsgdfd", made_setting(world=world))
    guard = FiniteGuard(method)
    guard.note(method.step({}))
    if world.rank == 1:
        assert isinstance(method, Lsgdfd) and method.members is not None
        next(method.members.bank.parameters()).data.fill_(torch.inf)
    guard.note(method.step({}))
    guard.check({})


def lag(world: World, folder: Path) -> list[dict[str, float] | str | None]:
    """Measure twice how worker 1 keeps the other waiting."""
    pace, found = Pace(world, 0, PhaseClock()), list[dict[str, float] | str | None]()
    for _ in range(2):
        time.sleep(0.5 * world.rank)
        world.gather_objects(None)
        found.append(pace.waiting())
        found.append(PROGRESS.straggler)
        pace.go_on()
    return found


POISONED = (poison_one, poison_all, poison_gradient, poison_bank)
CASES: tuple[Callable[[World, Path], Any], ...] = (
    calibrate, report, resume, lock, freeze, close_bank, lag, *POISONED,
)  # fmt: skip


def main(folder: Path) -> None:
    """Fail in all ways in turn."""
    torch.set_num_threads(1)
    world = World.current()
    found = {case.__name__: outcome(partial(case, world, folder)) for case in CASES}
    (folder / f"{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
