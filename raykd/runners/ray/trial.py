"""A trial of a search, in its own process: the engine's run, whose reports go to Ray Tune too."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune

from raykd.cluster.config import Cluster
from raykd.cluster.workers import fitting_workers
from raykd.config.runtime import Runtime
from raykd.distributed.host import prepare_host
from raykd.distributed.world import World
from raykd.engine.build import build_network, build_spec, check_referee
from raykd.engine.reporter import LocalReporter
from raykd.engine.stop import Interrupted, TakenOver
from raykd.engine.synthesis import make_image_sets
from raykd.errors import RaykdError, RunFailed, SetupError, error_to_dict
from raykd.files import MANIFEST, of_the_disk
from raykd.methods import METHODS
from raykd.models.permission import permit
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe
from raykd.results import RunResult
from raykd.runners.ray.driver import run_on_ray
from raykd.runners.ray.worker import WorkerTask, after_others, describe_fault
from raykd.search.attributes import IMAGES_MADE, TEST_ACCURACY
from raykd.search.objectives import metric_name, read_metric
from raykd.store.checkpoint import Checkpoint, step_of
from raykd.store.mirror import Mirror
from raykd.store.rows import parse_rows
from raykd.store.run_directory import METRICS, RunDirectory

# Keys of what a trial reports to Tune beside its objectives, TEST_ACCURACY and IMAGES_MADE.
REPORT = "report"
"""Number of the report, counted from 1 over all seeds of the trial."""
FINAL = "final"
"""The trial ran to its end."""
FAILED = "failed"
"""Why the trial has no result."""
INTERRUPTED = "interrupted"
"""The trial can go on: it has saved, or another tuner has it."""
OUTAGE = "outage"
"""Beside INTERRUPTED: why no trial can go on until somebody mends it, such as a full disk."""

_WAIT_SECONDS = 0.2
_REMOTE_WAIT_SECONDS = 2.0
_TIMED, _WARM = 30, 5  # forward passes


@dataclass(frozen=True)
class TrialTask:
    """What a trial's process is given, all of it plain data.

    Attributes:
        task: the fields of the WorkerTask that trains the trial's first seed.
        objectives: names of the objectives.
        cluster: the fields of the Cluster whose workers train the trial.
        begin: step of its run at which the trial begins.
        seeds: number of runs, one for each seed.
    """

    task: dict[str, Any]
    objectives: Sequence[str]
    cluster: dict[str, Any]
    begin: int
    seeds: int


class TuneReporter(LocalReporter):
    """Writes the run directory as any run does, and reports the objectives to Ray Tune."""

    def __init__(
        self,
        run: RunDirectory,
        asked_to_stop: Callable[[], bool],
        world: World,
        mirror: Mirror | None,
        objectives: "ObjectiveReporter",
    ) -> None:
        """Write into the directory of ``run``; see LocalReporter."""
        super().__init__(run, asked_to_stop, world, mirror)
        self._objectives = objectives

    def resume_from(self, before: int | None = None) -> Path | None:
        """Return the checkpoint to go on from; what led up to it is reported once more.

        The driver may have died before it noted the last row, and another's scheduler has heard of none.
        """
        found = super().resume_from(before)
        if found is not None:
            for row in self._run.rows():
                if row["step"] <= step_of(found):
                    self._objectives.report(row)
        return found

    def report(self, metrics: Mapping[str, float] | None, checkpoint: Checkpoint) -> None:
        """Write first: Tune may end the process here."""
        super().report(metrics, checkpoint)
        if metrics is not None:
            self._objectives.report(metrics)


class ObjectiveReporter:
    """Reads the objectives in a run's metrics rows, and reports them to Ray Tune, every row once."""

    def __init__(
        self, recipe: Recipe, objectives: Sequence[str], last_step: float = math.inf, *, begin: int = 0
    ) -> None:
        """Look up the metrics of the objectives of a trial.

        Args:
            recipe: of its run.
            objectives: their names.
            last_step: of the trial, if this run is its last; that is reported with its end.
            begin: the step at which it begins; rows up to there are another trial's.
        """
        self._metrics = {objective: metric_name(objective, recipe) for objective in objectives}
        self._report_every = recipe.schedule.report_every
        self._last_step, self._reported = last_step, begin

    def read(self, row: Mapping[str, float]) -> dict[str, float]:
        """Return the number of the report and the objectives that a metrics row has."""
        measured = {
            objective: read_metric(metric, row)
            for objective, metric in self._metrics.items()
            if metric is not None and metric in row
        }
        return {REPORT: -(-int(row["step"]) // self._report_every), **measured}

    def report(self, row: Mapping[str, float]) -> None:
        """Report a row, but not a trial's last: Tune could end it there, trained and without its final objectives."""
        if self._reported < row["step"] < self._last_step:
            self._reported = int(row["step"])
            tune.report(self.read(row))


def read_run_id(config: Mapping[str, Any]) -> str:
    """Return the id of the run, the first of its seeds, that a trial's config names."""
    return str(TrialTask(**config).task["experiment"]["run"])


def run_trial(config: dict[str, Any]) -> None:
    """Train the runs of a trial, one for each seed; every way to end is reported to Tune, none is raised."""
    trial = TrialTask(**config)
    task = WorkerTask(**trial.task)
    task.enter_working_dir()
    first, cluster = task.resolved, Cluster.model_validate(trial.cluster)
    results: list[dict[str, Any]] = []
    try:
        for number in range(trial.seeds):
            results.append(_run_seed(task, first.with_seed(first.recipe.seed + number), trial, cluster))
            measured = [name for name, value in results[0].items() if value is not None]
            result = {name: sum(seed[name] for seed in results) / len(results) for name in measured}
            if number:  # the first one has reported its rows
                result[REPORT] = (number + 1) * _count_reports(first.recipe)
            if 0 < number < trial.seeds - 1:  # the last is reported below
                tune.report(result)
        result |= {IMAGES_MADE: sum(seed[IMAGES_MADE] for seed in results), FINAL: 1.0}
    except Interrupted:
        result = {INTERRUPTED: 1.0}
    except SetupError as error:  # not of its values: a full disk, a store that is gone; mended, it goes on
        result = {INTERRUPTED: 1.0, OUTAGE: str(error)}
    except RaykdError as error:
        result = {FAILED: str(error)}
    except Exception as error:  # a fault of ours must not take the other trials with it
        outage = of_the_disk(error)
        result = {INTERRUPTED: 1.0, OUTAGE: str(outage)} if outage else {FAILED: describe_fault(task, error)}
    tune.report(result)


def _run_seed(task: WorkerTask, run: Experiment, trial: TrialTask, cluster: Cluster) -> dict[str, Any]:
    """Train one seed of a trial, or its segment of the run, and return its objectives and images."""
    result: RunResult | None
    begin, end, recipe = trial.begin, task.until, run.recipe
    train = _train_by_workers if cluster.worker_range[1] > 1 else _train_here
    made = _count_missing_images(task, run)
    try:
        result = after_others(lambda: train(task, run, trial, cluster), _asked_to_stop(task))
    except TakenOver:
        raise
    except Interrupted:
        if end is None or task.workspace.run(run.run_id).status().get("step", 0) < end:
            raise
        result = None  # a segment that ends before its run has none
    method, schedule = METHODS[recipe.method.name], recipe.schedule
    if method.makes_images:
        until, before = (
            method.images_of(recipe.method, steps, schedule.global_batch) for steps in (end or schedule.steps, begin)
        )
        made += until - before
    return {IMAGES_MADE: made, **_measure(task, run, result, trial.objectives, cluster)}


def _asked_to_stop(task: WorkerTask) -> Callable[[], bool]:
    """Return what tells whether this process's trial is to save and stop; it raises TakenOver if another has it."""
    return partial(task.signals.stop_asked_for, tune.get_context().get_trial_id() or "")


def _objective_reporter(task: WorkerTask, run: Experiment, trial: TrialTask) -> ObjectiveReporter:
    # Where the trial has seeds after this one, its last step is none of this run.
    last_step = math.inf if trial.seeds > 1 else task.until or run.recipe.schedule.steps
    return ObjectiveReporter(run.recipe, trial.objectives, last_step, begin=trial.begin)


def _count_reports(recipe: Recipe) -> int:
    return -(-recipe.schedule.steps // recipe.schedule.report_every)


def make_sets(config: dict[str, Any]) -> dict[str, Any]:
    """Make the frozen sets of a run in a process of their own; return how many images were made, or an error."""
    task = WorkerTask(**config)
    task.enter_working_dir()
    prepare_host(Runtime.model_validate(task.runtime).threads)
    try:
        world = World.current()
        made = make_image_sets(task.resolved, world, task.workspace)
        check_referee(task.resolved, world, task.workspace)
        return {"made": made}
    except RaykdError as error:
        return error_to_dict(error)
    except Exception as error:  # a fault of ours, which the driver tells as any other failure
        return error_to_dict(RunFailed(f"the frozen sets could not be made: {describe_fault(task, error)}"))


def _count_missing_images(task: WorkerTask, run: Experiment) -> int:
    """Return how many images the run's frozen sets have that are not in the store yet."""
    workspace, sets = task.workspace, set(run.image_sets)
    workspace.pull([images.name for images in sets], World.alone())
    return sum(images.images for images in sets if not (workspace.store / images.name / MANIFEST).is_file())


def _train_here(task: WorkerTask, run: Experiment, trial: TrialTask, cluster: Cluster) -> RunResult:
    """Train in this process."""
    objectives = _objective_reporter(task, run, trial)
    first, asked_to_stop, mirror = task.resolved.run_id, _asked_to_stop(task), task.workspace.mirror

    def make_reporter(directory: RunDirectory, world: World) -> LocalReporter:
        if directory.name != first:  # a teacher's run is nobody's trial, and of further seeds the mean is reported
            return LocalReporter(directory, asked_to_stop, world, mirror)
        return TuneReporter(directory, asked_to_stop, world, mirror, objectives)

    return task.run(run, make_reporter)


def _train_by_workers(task: WorkerTask, run: Experiment, trial: TrialTask, cluster: Cluster) -> RunResult:
    """Train by workers of Ray Train, and report to Tune the rows that they write into the run directory."""
    objectives = _objective_reporter(task, run, trial)
    ending, asked_to_stop = threading.Event(), _asked_to_stop(task)
    is_first = run.run_id == task.resolved.run_id  # of further seeds the mean is reported
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
                lambda: ending.is_set() or asked_to_stop(),
                task.until,
            )
            results.append(result)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    wait = _WAIT_SECONDS if task.workspace.mirror is None else _REMOTE_WAIT_SECONDS
    thread.start()
    try:
        while thread.is_alive():
            for row in _read_rows(task, directory) if is_first else ():  # those of an earlier start too
                objectives.report(row)
            thread.join(wait)
    finally:  # Tune may have ended this trial at a report: then the workers save and leave first
        ending.set()
        thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _measure(
    task: WorkerTask, run: Experiment, result: RunResult | None, objectives: Sequence[str], cluster: Cluster
) -> dict[str, Any]:
    """Return all objectives of a finished run, or of a segment of one: metrics by its last row, and measured ones."""
    recipe, directory, end = run.recipe, task.workspace.run(run.run_id), task.until
    rows = [row for row in directory.rows() if end is None or row["step"] <= end]
    measured: dict[str, Any] = ObjectiveReporter(recipe, objectives).read(rows[-1]) if rows else {}
    measured[TEST_ACCURACY] = rows[-1].get("accuracy/top1") if rows else None
    if "gpu_hours" in objectives and result is not None:
        measured["gpu_hours"] = gpu_hours(result, directory.environment().get("workers", 1), cluster)
    if {"parameters", "latency"} & set(objectives):
        spec = build_spec(recipe.data, task.workspace)
        assert recipe.student is not None, "only a student is searched for"
        permit([recipe.student])  # of several workers' run, which this process has only waited for
        student = build_network(recipe.student, spec, task.workspace, "student")
        measured["parameters"] = float(sum(parameter.numel() for parameter in student.parameters()))
        measured["latency"] = _measure_latency(student, torch.zeros(1, spec.channels, spec.size, spec.size))
    return measured


def gpu_hours(result: RunResult, workers: int, cluster: Cluster) -> float:
    """Return the GPU-hours of a run, by the part of a GPU that a worker has; without GPUs the hours of its workers."""
    if result.gpu_hours:
        return result.gpu_hours * min(1.0, cluster.gpus_per_worker or 1.0)
    return workers * (result.seconds or 0.0) / 3600


@torch.no_grad()
def _measure_latency(student: torch.nn.Module, image: torch.Tensor) -> float:
    """Return the milliseconds of a forward pass of one image on this machine, the median of some."""
    device = World.current().device
    student, image = student.to(device).eval(), image.to(device)
    seconds = []
    for _ in range(_WARM + _TIMED):
        started = time.perf_counter()
        student(image).cpu()
        seconds.append(time.perf_counter() - started)
    return 1e3 * sorted(seconds[_WARM:])[_TIMED // 2]


def _read_rows(task: WorkerTask, run: RunDirectory) -> list[dict[str, Any]]:
    """Return the rows of a run so far, as the store has them: its workers may be on other machines."""
    mirror = task.workspace.mirror
    if mirror is None:
        return run.rows()
    return parse_rows((mirror.remote.try_read(f"{run.name}/{METRICS}") or b"").decode(errors="replace"))
