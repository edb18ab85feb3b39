"""How long a run takes in this process, by a few steps of it: quicker, and coarser, than ``predict``."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.build import build
from raykd.methods import METHODS
from raykd.planning.profile import time_report, wait_for
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe, without_test
from raykd.store.workspace import Workspace

_MOST_STEPS = 5  # of a phase


@dataclass(frozen=True)
class RunTiming:
    """Seconds of a run: to build it, of a step by phase, and of a report; of a test split there is nothing in them."""

    build: float
    phases: Sequence[float]
    report: float

    def seconds(self, recipe: Recipe, until: int | None = None) -> float:
        """Return what a run of the recipe takes up to a step (default: the last), without building it."""
        end = recipe.schedule.steps if until is None else until
        phases = METHODS[recipe.method.name].phases(recipe.method, recipe.schedule.steps)
        # A schedule that is short enough may have fewer phases: the later ones are those that it has.
        costs = self.phases[-len(phases) :]
        steps = sum(
            cost * len(range(phase.start, min(phase.stop, end))) for cost, phase in zip(costs, phases, strict=True)
        )
        return steps + self.report * (end // recipe.schedule.report_every)

    @property
    def step(self) -> float:
        """Return the seconds of a step of the last, and longest, phase."""
        return self.phases[-1]


def time_run(experiment: Experiment, world: World, runtime: Runtime, workspace: Workspace, enough: float) -> RunTiming:
    """Build a run here, make a few steps of each of its phases, and report twice; nothing of it is kept.

    Args:
        experiment: what it builds on must be there.
        world: of this process alone.
        runtime: as it will run.
        workspace: where data and weights are.
        enough: seconds of a phase's steps after which no more are added.

    Raises:
        RaykdError: as the run itself would.
    """
    began = time.perf_counter()
    recipe = without_test(experiment.recipe)
    built = build(experiment.with_recipe(recipe), world, runtime, workspace)
    built_in = time.perf_counter() - began
    method, costs = built.method, []
    for phase in method.phases(recipe.method, recipe.schedule.steps):
        method.steps_done = max(method.steps_done, phase.start)
        walls: list[float] = []
        spent = 0.0
        while len(walls) <= min(_MOST_STEPS, len(phase) - 1) and spent < enough:
            batches = {name: stream.batch(method.steps_done) for name, stream in built.streams.items()}
            wait_for(world)
            wall = time.perf_counter()
            method.step(batches)
            wait_for(world)
            walls.append(time.perf_counter() - wall)
            spent += walls[-1]
        costs.append(median(walls[1:] or walls))  # the first one also loads what steps need
    reports = 1 if costs[-1] > enough else 2  # the first one also loads what reports need
    report = time_report(built, recipe, world, workspace.data, costs[-1], reports)
    return RunTiming(built_in, costs, float(report["report_seconds"]))
