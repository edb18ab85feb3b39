"""Predict what a worker's step takes from trials (see ``profile``) at sizes that are cheap to try.

Time and memory grow by a straight line along the axis that the method names, so two small trials predict a large one.
Where the planned size itself is cheap, it is tried, and then nothing is predicted.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import raykd
from raykd.config.runtime import Runtime
from raykd.errors import RunFailed, error_from_dict
from raykd.methods import METHODS
from raykd.methods.cost import CostAxis, PlannedRun
from raykd.planning.profile import WARM_UP, ProfileTask
from raykd.recipe.experiment import Experiment, experiment_from_dict
from raykd.recipe.sections import ScheduleConfig
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

STEPS = 5
MOST_SECONDS = 600.0
"""Of all trials of a run, loading libraries included; what is not done by then is ended."""
_CHEAP = 15.0  # seconds of a trial
_SAFE = 0.8  # of the memory there is
_LEAST_STEPS = 64  # no trial may come to the end of a run
_GLANCE = 0.5  # seconds between looks at a trial: a signal that asks to leave is answered in between


@dataclass(frozen=True)
class TrialSite:
    """Where trials run.

    Attributes:
        workspace: where runs and data are.
        workers: how many are simulated.
        imports: modules that a worker also imports.
        environment: that a worker also has.
        deadline: when a trial that still runs is ended, by ``time.monotonic``; None: never.
    """

    workspace: Workspace
    workers: int = 1
    imports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None


class Line(NamedTuple):
    """A quantity that is ``fixed`` and grows by ``each``."""

    fixed: float
    each: float

    def at(self, size: int) -> float:
        """Return the quantity at a size."""
        return self.fixed + self.each * size

    def fits(self, most: float) -> int:
        """Return the largest size at which the quantity is ``most`` or less; 0 where there is none."""
        return max(0, int((most - self.fixed) / self.each)) if self.each > 0 else 0


def fit_line(points: Sequence[tuple[int, float]]) -> Line:
    """Return the line through the first and the last point; neither its start nor its slope is below zero."""
    (x, y), (last_x, last_y) = points[0], points[-1]
    each = max(0.0, (last_y - y) / (last_x - x)) if last_x > x else 0.0
    fixed = last_y - each * last_x
    return Line(fixed, each) if fixed >= 0 else Line(0.0, last_y / last_x)


@dataclass(frozen=True)
class Prediction:
    """Findings of the trials, and what they predict for the planned size.

    Attributes:
        axis: what the sizes count, and which the run will have.
        trials: findings by size.
        placeholders: a note for each run or set that was missing and replaced by a random one.
        experiment: as it was tried, built on the placeholders.
    """

    axis: CostAxis
    trials: Mapping[int, Mapping[str, Any]]
    placeholders: tuple[str, ...]
    experiment: Experiment

    @property
    def built(self) -> Mapping[str, Any]:
        """Return findings from before any step, which do not depend on the size."""
        return next(iter(self.trials.values()))

    def trend(self, key: str) -> Line:
        """Return the line that a quantity grows along."""
        return fit_line([(size, float(trial[key])) for size, trial in sorted(self.trials.items())])

    def at(self, key: str, size: int | None = None) -> float:
        """Return a quantity at a size (default: the planned one): measured there, else predicted."""
        size = self.axis.planned if size is None else size
        return float(self.trials[size][key]) if size in self.trials else self.trend(key).at(size)

    def peak(self, size: int | None = None) -> int:
        """Return the largest memory of building, stepping and reporting, in bytes."""
        return round(max(self.at(key, size) for key in ("built", "steps_peak", "report_peak")))

    def largest_size(self, most: int) -> int:
        """Return the largest size whose peak is ``most`` bytes or less; 0 where none is."""
        trends = [trend for key in ("steps_peak", "report_peak") if (trend := self.trend(key)).each > 0]
        return min((trend.fits(most) for trend in trends), default=0)


def predict(
    experiment: Experiment,
    runtime: Runtime,
    site: TrialSite,
    store: Path,
    *,
    memory: int | None,
    direct: bool = True,
    steps: int = STEPS,
) -> Prediction:
    """Try a recipe on this machine, for ``MOST_SECONDS`` at most.

    Args:
        experiment: what is to run.
        runtime: as its workers will have it.
        site: where the trials run.
        store: an empty folder, for placeholders.
        memory: bytes that a worker may use, if known; no trial is made that may take more.
        direct: whether to try the planned size itself where that is cheap.
        steps: how many are timed in a trial.

    Raises:
        RunFailed: if a trial has not ended by then.
        RaykdError: as the run itself would.
    """
    recipe, site = experiment.recipe, replace(site, deadline=time.monotonic() + MOST_SECONDS)
    logger.info("%s: loading libraries in a process of their own, for what the run builds on", experiment.run_id)
    prepared, placeholders = _prepare(experiment, site, store)

    schedule = recipe.schedule
    built = cache(lambda: measure(prepared, runtime, site, store, 0, schedule))
    run = PlannedRun(site.workers, schedule.global_batch, schedule.steps, built)
    axis = METHODS[recipe.method.name].cost_axis(recipe.method, run)

    def attempt(size: int) -> dict[str, Any]:
        knobs = axis.knobs(size)
        batch = knobs.get("global_batch", schedule.global_batch)
        wave = knobs.get("wave", runtime.wave)
        smaller = _with_batch(prepared, batch)
        logger.info("%s: measuring steps of %d %s", experiment.run_id, size, axis.counts)
        return measure(smaller, runtime.model_copy(update={"wave": wave}), site, store, steps, schedule)

    return Prediction(axis, _trials(axis, attempt, memory, direct), tuple(placeholders), prepared)


def _trials(
    axis: CostAxis, attempt: Callable[[int], dict[str, Any]], memory: int | None, direct: bool
) -> dict[int, dict[str, Any]]:
    """Try two small sizes; with ``direct`` the planned one instead of the second, if it is cheap and there is room."""
    first = _at_least(axis.planned // 8, axis)
    second = _at_least(max(2 * first, axis.planned // 4), axis)
    trials = {first: attempt(first)}
    if first < axis.planned:
        if direct and _is_cheap(axis.planned / first, trials[first], memory):
            second = axis.planned
        trials[second] = attempt(second)
    return trials


def _at_least(size: int, axis: CostAxis) -> int:
    """Return the smallest size of the axis that is ``size`` or more, else the planned one."""
    return next((possible for possible in axis.sizes if possible >= size), axis.planned)


def _is_cheap(factor: float, trial: Mapping[str, Any], memory: int | None) -> bool:
    """Tell whether a trial ``factor`` times as large takes little time and fits into memory."""
    peak = trial["built"] + factor * (trial["steps_peak"] - trial["built"])
    seconds = factor * (trial["seconds"] * (WARM_UP + STEPS) + trial["report_seconds"])
    return seconds < _CHEAP and (memory is None or peak < _SAFE * memory)


def _with_batch(experiment: Experiment, batch: int) -> Experiment:
    """Return the run with another batch and as many images in all, by which it is decided whether to compile."""
    recipe, schedule = experiment.recipe, experiment.recipe.schedule
    steps = max(_LEAST_STEPS, schedule.steps * schedule.global_batch // batch)
    shorter = schedule.model_copy(update={"global_batch": batch, "steps": steps})
    return experiment.with_recipe(recipe.model_copy(update={"schedule": shorter}))


def _prepare(experiment: Experiment, site: TrialSite, store: Path) -> tuple[Experiment, list[str]]:
    """Fill ``store`` with what the run builds on, and return the run to build there."""
    workspace = {
        "store": str(site.workspace.store),
        "data_root": str(site.workspace.data) if site.workspace.data else None,
    }
    answer = _run_task("prepare", {"experiment": experiment.to_dict(), "at": str(store), **workspace}, site)
    return experiment_from_dict(answer["experiment"]), answer["placeholders"]


def measure(
    experiment: Experiment,
    runtime: Runtime,
    site: TrialSite,
    store: Path,
    steps: int,
    schedule: ScheduleConfig | None = None,
) -> dict[str, Any]:
    """Run one trial of a run whose placeholders are in ``store``, and return its findings.

    ``schedule`` is that of the planned run, where the trial's is another.
    """
    data_root = str(site.workspace.data) if site.workspace.data else None
    shortened = _with_batch(experiment, experiment.recipe.schedule.global_batch) if steps else experiment
    planned = (schedule or experiment.recipe.schedule).model_dump()
    task = ProfileTask(
        shortened.to_dict(), site.workers, runtime.model_dump(), str(store), data_root, steps, planned, site.imports
    )
    return _run_task("measure", asdict(task), site)


def _run_task(task: str, payload: Mapping[str, Any], site: TrialSite) -> dict[str, Any]:
    """Run a task of ``profile.answer`` in a process of its own; raise here the error that it returns."""
    answer = run_in_process(task, payload, site)
    if "error" in answer:
        raise error_from_dict(answer)
    return answer


def run_in_process(task: str, payload: Mapping[str, Any], site: TrialSite) -> dict[str, Any]:
    """Return the answer of a task of ``profile.answer`` that a process of its own has run, an error as data.

    Raises:
        RunFailed: if the process ended without an answer, or was ended at the site's deadline.
    """
    # Ranks are those of the process that asks, if torchrun has started it.
    inherited = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join(filter(None, (str(Path(raykd.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        # -P: files of the working directory may be called like the standard library's.
        [sys.executable, "-P", "-m", "raykd.planning.profile", task],
        env={**inherited, "PYTHONPATH": path, **site.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = payload["experiment"]["run"]
    with process:
        try:
            stdout, stderr = _wait_for(process, json.dumps(payload), site.deadline, run)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last_line = (stderr.strip().splitlines() or ["it said nothing"])[-1]
        cause = f"killed by signal {-process.returncode}; was memory short?" if process.returncode < 0 else last_line
        raise RunFailed(f"a trial of {run} ended with code {process.returncode} ({cause})")
    answer: dict[str, Any] = json.loads(stdout.rstrip().rpartition("\n")[2])
    return answer


def _wait_for(process: "subprocess.Popen[str]", text: str, deadline: float | None, run: str) -> tuple[str, str]:
    """Give a process its input, and return what it has written to stdout and stderr once it has ended.

    Raises:
        RunFailed: at the deadline.
    """
    rest: str | None = text
    while True:
        try:
            return process.communicate(rest, timeout=_GLANCE)
        except subprocess.TimeoutExpired:
            rest = None  # what is not sent yet is kept there
            if deadline is not None and time.monotonic() > deadline:
                raise RunFailed(
                    f"the trials of {run} were ended after {MOST_SECONDS / 60:.0f} minutes: its steps are too long to "
                    "be measured here, or others keep the machine busy; try again when it is idle, or with a lower "
                    "schedule.global_batch"
                ) from None
