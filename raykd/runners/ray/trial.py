"""A trial of a search, in its own process: the engine's run, with a reporter that Ray Tune hears too."""

import math
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ray import tune

from raykd.cluster.config import Cluster
from raykd.cluster.workers import fitting_workers
from raykd.config.runtime import Runtime
from raykd.distributed.host import prepare_host
from raykd.distributed.world import World
from raykd.engine.build import build_network, build_spec
from raykd.engine.reporter import LocalReporter
from raykd.engine.stop import Interrupted
from raykd.engine.synthesis import make_image_sets
from raykd.errors import RaykdError, SetupError, error_to_dict
from raykd.files import MANIFEST, write_text
from raykd.methods import METHODS
from raykd.methods.base import mean_images_per_step
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe
from raykd.results import RunResult
from raykd.runners.ray.driver import run_on_ray
from raykd.runners.ray.searcher import BROKEN, FAILED, FINAL, INTERRUPTED, MADE, REPORT, TEST
from raykd.runners.ray.worker import WorkerTask, after_others
from raykd.search.objectives import reported_as
from raykd.store.checkpoint import Checkpoint
from raykd.store.run_directory import METRICS, RunDirectory, parse_rows

_WAIT_SECONDS = 0.2
_REMOTE_WAIT_SECONDS = 2.0
_TIMED, _WARM = 30, 5  # forward passes


@dataclass(frozen=True)
class TrialTask:
    """What a trial's process is given, all of it plain data.

    ``task`` trains the trial's first seed, ``begin`` is the step that its part of the run begins at.
    """

    task: dict[str, Any]
    objectives: Sequence[str]
    cluster: dict[str, Any]
    begin: int
    seeds: int


class TuneReporter(LocalReporter):
    """Writes the run directory as any run does, and tells Ray Tune the objectives."""

    def __init__(self, run: RunDirectory, task: WorkerTask, world: World, tell: "Telling") -> None:
        """Write into the directory of ``run``, in the task's store."""
        super().__init__(run, task.signals.stop_asked_for, world, task.workspace.mirror)
        self._tell = tell

    def report(self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint) -> None:
        """Write first: Tune may end the process here."""
        super().report(metrics, checkpoint)
        if metrics is not None:
            self._tell(metrics)


class Telling:
    """Says of a run's rows what Ray Tune wants to know."""

    def __init__(self, recipe: Recipe, objectives: Sequence[str], last: float = math.inf) -> None:
        """Find out by which names the run reports them; ``last`` is the step that ends the trial, if this run does."""
        self._names = {objective: reported_as(objective, recipe) for objective in objectives}
        self._every = recipe.schedule.report_every
        self._last = last

    def row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the objectives that a row of metrics has."""
        found = {objective: metrics[name] for objective, name in self._names.items() if name and name in metrics}
        return {REPORT: -(-int(metrics["step"]) // self._every), **found}

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Report a row, but the last one of a trial: Tune could end it there, all trained and nothing concluded."""
        if metrics["step"] < self._last:
            tune.report(self.row(metrics))


def run_of(config: Mapping[str, Any]) -> str:
    """Return the id of the run, the first of its seeds, that a trial was told to train."""
    return str(TrialTask(**config).task["experiment"]["run"])


def run_trial(config: dict[str, Any]) -> None:
    """Train what a trial's values make of the recipe, telling how it goes; every way to end is told, none raised."""
    trial = TrialTask(**config)
    task = WorkerTask(**trial.task)
    task.enter_working_dir()
    first, cluster = task.resolved, Cluster.model_validate(trial.cluster)
    seeds: list[dict[str, Any]] = []
    try:
        for number in range(trial.seeds):
            seeds.append(_run_seed(task, first.with_seed(first.recipe.seed + number), trial, cluster))
            told = {
                name: sum(one[name] for one in seeds) / len(seeds) for name in seeds[0] if seeds[0][name] is not None
            }
            if number:  # the first one has told its rows
                told[REPORT] = (number + 1) * _reports(first.recipe)
            if 0 < number < trial.seeds - 1:  # the last is told below
                tune.report(told)
        told |= {MADE: sum(each[MADE] for each in seeds), FINAL: 1.0}
    except Interrupted:
        told = {INTERRUPTED: 1.0}
    except SetupError as error:  # not of its values: a full disk, a store that is gone; mended, it goes on
        told = {INTERRUPTED: 1.0, BROKEN: str(error)}
    except RaykdError as error:
        told = {FAILED: str(error)}
    except Exception as error:  # a fault of ours must not take the other trials with it
        log = task.workspace.run(first.run_id).error_log
        write_text(log, traceback.format_exc())
        told = {FAILED: f"{type(error).__name__}: {error}; the traceback is in {log}"}
    tune.report(told)


def _run_seed(task: WorkerTask, run: Experiment, trial: TrialTask, cluster: Cluster) -> dict[str, Any]:
    """Train one seed of a trial, or its part of the run, and return what there is to tell of it."""
    result: RunResult | None
    begin, end, train = trial.begin, task.until, _together if cluster.worker_range[1] > 1 else _alone
    made, recipe = _to_be_made(task, run), run.recipe
    try:
        result = after_others(lambda: train(task, run, trial, cluster), task.signals.stop_asked_for)
    except Interrupted:
        if end is None or task.workspace.run(run.run_id).status().get("step", 0) < end:
            raise
        result = None  # what is told at the end of a run is told of no part
    method, schedule = METHODS[recipe.method.name], recipe.schedule
    if method.makes_images:
        per_step = mean_images_per_step(method, recipe.method, schedule.global_batch)
        made += ((end or schedule.steps) - begin) * per_step
    return {MADE: made, **_at_the_end(task, run, result, trial.objectives, cluster)}


def _last_step(task: WorkerTask, recipe: Recipe, trial: TrialTask) -> float:
    """Return the step that ends the trial, infinite where it has runs after this one."""
    return math.inf if trial.seeds > 1 else task.until or recipe.schedule.steps


def _reports(recipe: Recipe) -> int:
    return -(-recipe.schedule.steps // recipe.schedule.report_every)


def make_sets(config: dict[str, Any]) -> dict[str, Any]:
    """Make the frozen sets of a run in a process of their own; return how many images, or an error as data."""
    task = WorkerTask(**config)
    task.enter_working_dir()
    prepare_host(Runtime.model_validate(task.runtime).threads)
    try:
        return {"made": make_image_sets(task.resolved, World.current(), task.workspace)}
    except RaykdError as error:
        return error_to_dict(error)


def _to_be_made(task: WorkerTask, run: Experiment) -> int:
    """Return how many images the frozen sets have that are not there yet."""
    workspace, sets = task.workspace, set(run.image_sets)
    workspace.pull([images.name for images in sets], World.alone())
    return sum(images.images for images in sets if not (workspace.store / images.name / MANIFEST).is_file())


def _alone(task: WorkerTask, run: Experiment, trial: TrialTask, cluster: Cluster) -> RunResult:
    """Train in this process."""
    telling = Telling(run.recipe, trial.objectives, _last_step(task, run.recipe, trial))
    own = task.resolved.run_id

    def reporter(directory: RunDirectory, world: World) -> LocalReporter:
        if directory.name != own:  # the run of a teacher is nobody's trial, and further seeds are told by their means
            return LocalReporter(directory, task.signals.stop_asked_for, world, task.workspace.mirror)
        return TuneReporter(directory, task, world, telling)

    return task.run(run, reporter)


def _together(task: WorkerTask, run: Experiment, trial: TrialTask, cluster: Cluster) -> RunResult:
    """Train by workers of Ray Train, reading from the run directory how they do."""
    telling, ending = Telling(run.recipe, trial.objectives, _last_step(task, run.recipe, trial)), threading.Event()
    first = run.run_id == task.resolved.run_id  # further seeds are told by their means
    directory = task.workspace.run(run.run_id)
    results: list[RunResult] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            result = run_on_ray(
                run,
                cluster,
                task.workspace,
                fitting_workers(run, cluster),
                lambda: ending.is_set() or task.signals.stop_asked_for(),
                task.until,
            )
            results.append(result)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    wait = _WAIT_SECONDS if task.workspace.mirror is None else _REMOTE_WAIT_SECONDS
    rows = _rows_there(task, directory)
    seen = len(rows)
    thread.start()
    try:
        while thread.is_alive():
            rows = _rows_there(task, directory)
            for row in rows[seen:] if first else ():
                telling(row)
            seen = max(seen, len(rows))
            thread.join(wait)
    finally:  # Tune may have ended this trial at a report: then the workers save and leave first
        ending.set()
        thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _at_the_end(
    task: WorkerTask, run: Experiment, result: RunResult | None, objectives: Sequence[str], cluster: Cluster
) -> dict[str, Any]:
    """Return all objectives of a finished run, or part of one, those that it reported by its last row."""
    recipe, directory, end = run.recipe, task.workspace.run(run.run_id), task.until
    rows = [row for row in directory.rows() if end is None or row["step"] <= end]
    told: dict[str, Any] = Telling(recipe, objectives).row(rows[-1]) if rows else {}
    told[TEST] = rows[-1].get("accuracy/top1") if rows else None
    if "gpu_hours" in objectives and result is not None:
        told["gpu_hours"] = gpu_hours(result, directory.environment().get("workers", 1), cluster)
    if {"parameters", "latency"} & set(objectives):
        spec = build_spec(recipe.data, task.workspace)
        assert recipe.student is not None, "only a student is searched for"
        student = build_network(recipe.student, spec, task.workspace, "student")
        told["parameters"] = float(sum(parameter.numel() for parameter in student.parameters()))
        told["latency"] = _latency(student, torch.zeros(1, spec.channels, spec.size, spec.size))
    return told


def gpu_hours(result: RunResult, workers: int, cluster: Cluster) -> float:
    """Return the GPU-hours of a run, by the part of a GPU that a worker has; without GPUs the hours of its workers."""
    if result.gpu_hours:
        return result.gpu_hours * min(1.0, cluster.gpus_per_worker or 1.0)
    return workers * (result.seconds or 0.0) / 3600


@torch.no_grad()
def _latency(student: torch.nn.Module, image: torch.Tensor) -> float:
    """Return the milliseconds of one image on this machine, the median of some."""
    device = World.current().device
    student, image = student.to(device).eval(), image.to(device)
    seconds = []
    for _ in range(_WARM + _TIMED):
        started = time.perf_counter()
        student(image).cpu()
        seconds.append(time.perf_counter() - started)
    return 1e3 * sorted(seconds[_WARM:])[_TIMED // 2]


def _rows_there(task: WorkerTask, run: RunDirectory) -> list[dict[str, Any]]:
    """Return the rows of a run so far, as the store has them: its workers may be on other machines."""
    mirror = task.workspace.mirror
    if mirror is None:
        return run.rows()
    return parse_rows((mirror.remote.peek(f"{run.name}/{METRICS}") or b"").decode(errors="replace"))
