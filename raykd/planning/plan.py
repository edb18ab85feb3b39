"""What a run will need, told before it starts: memory of a worker, traffic between them, time, disk."""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raykd.config.runtime import Runtime
from raykd.errors import RaykdError, UsageError
from raykd.planning.predict import Prediction, Site, predict
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe
from raykd.results import Plan, RunPlan

_GIB = 2**30
_KEPT = 2  # checkpoints
_BUSY = 1.3  # times longer than the processor worked


@dataclass(frozen=True)
class Terms:
    """What a worker is given and what it costs.

    Attributes:
        workers: how many there are.
        memory: bytes that each may use, or None where nobody knows.
        gpus: of each; 0 counts CPU-hours instead.
        cpus: of each.
        price: of one worker's hour, in whatever currency.
        crowding: how many times slower a step is, where workers share too few cores.
    """

    workers: int
    memory: int | None
    gpus: float
    cpus: float
    price: float | None
    crowding: float = 1.0


def plan(experiment: Experiment, runtime: Runtime, site: Site, terms: Terms) -> Plan:
    """Return the plans of all runs that training this recipe means, and their sum.

    Raises:
        UsageError: if a run cannot fit into the memory, saying what would.
        RaykdError: as the recipe's own run would; of the runs around it such an error is told in its line.
    """
    runs = []
    for run in experiment.runs:
        is_own = run.run_id == experiment.run_id
        if not is_own and site.workspace.run(run.run_id).is_finished:
            runs.append(RunPlan(run.run_id, "finished"))
            continue
        try:
            runs.append(RunPlan(run.run_id, "to train", **_plan_one(run, runtime, site, terms)))
        except RaykdError as error:
            if is_own or isinstance(error, DoesNotFit):
                raise
            runs.append(RunPlan(run.run_id, "not planned", reason=str(error)))
    total = {}
    for key in ("hours", "gpu_hours", "cpu_hours", "price"):
        if figures := [getattr(run, key) for run in runs if getattr(run, key) is not None]:
            total[key] = sum(figures)
    return Plan(experiment.recipe.name, experiment.run_id, terms.workers, runs, total)


class DoesNotFit(UsageError):
    """A run needs more memory than a worker may use."""


def _plan_one(experiment: Experiment, runtime: Runtime, site: Site, terms: Terms) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="raykd-plan-") as folder:
        prediction = predict(experiment, runtime, site, Path(folder) / "store", memory=terms.memory)
    recipe = experiment.recipe
    _require_room(experiment, runtime, prediction, terms)
    return {
        **prediction.axis.shares,
        **_memory(prediction, terms),
        **_travel(prediction, terms),
        **_cost(recipe, prediction, terms),
        **_disk(prediction),
        "measured": {
            "device": prediction.built["device"],
            "size_is": prediction.axis.counts,
            "planned": prediction.axis.planned,
            "at": {
                str(size): {"seconds": found["seconds"], "peak_bytes": max(found["steps_peak"], found["report_peak"])}
                for size, found in sorted(prediction.trials.items())
            },
        },
        "notes": _notes(prediction),
    }


def _memory(prediction: Prediction, terms: Terms) -> dict[str, Any]:
    """Tell sizes of networks and what a worker's memory fills with."""
    built = prediction.built
    numbers = dict(built["parameters"])
    member = built.get("member")
    trained = sum(built["trained"].values())
    new = member["parameters"] * prediction.axis.members if member else 0
    if member and new:
        numbers |= {"one generator": member["parameters"], "generators of a wave": new}
        trained += new
    optimizer = round(prediction.at("optimizer"))
    activations = prediction.at("steps_peak") - prediction.at("built") - optimizer - 4 * new
    return {
        "parameters": numbers,
        "trained_parameters": trained,
        "optimizer_bytes": optimizer,
        "activation_bytes": max(0, round(activations)),
        "peak_bytes": prediction.peak(),
        "available_bytes": terms.memory,
    }


def _travel(prediction: Prediction, terms: Terms) -> dict[str, Any]:
    """Tell what a worker sends in a step, and how a bank is held."""
    kinds = sorted({kind for found in prediction.trials.values() for kind in found["traffic"]})
    sent = {}
    for kind in kinds:
        law = {size: {**found, kind: found["traffic"].get(kind, 0)} for size, found in prediction.trials.items()}
        sent[kind] = round(replace(prediction, trials=law).at(kind))
    told: dict[str, Any] = {"traffic_bytes": sent, "traffic_bytes_in_all": sum(sent.values())}
    bank = prediction.built.get("bank")
    if bank:
        told["bank"] = dict(bank)
    return told


def _cost(recipe: Recipe, prediction: Prediction, terms: Terms) -> dict[str, Any]:
    """Add up the time. The network between workers is not in it."""
    steps, report_every = recipe.schedule.steps, recipe.schedule.report_every
    sizes = prediction.axis.stages
    step = prediction.at("seconds") * terms.crowding
    seconds = sum(prediction.at("seconds", size) * steps for size in sizes) * terms.crowding
    reports = math.ceil(steps * len(sizes) / report_every)
    report = prediction.at("report_seconds") * terms.crowding
    hours = (seconds + reports * report) / 3600
    told = {
        "seconds_per_step": step,
        "cpu_seconds_per_step": prediction.at("cpu_seconds"),
        "steps": steps * len(sizes),
        "seconds_per_report": report,
        "reports": reports,
        "hours": hours,
    }
    if terms.gpus:
        told["gpu_hours"] = hours * terms.workers * terms.gpus
    else:
        told["cpu_hours"] = hours * terms.workers * terms.cpus
    if terms.price is not None:
        told["price"] = hours * terms.workers * terms.price
    return told


def _disk(prediction: Prediction) -> dict[str, Any]:
    told: dict[str, Any] = {"checkpoint_bytes": round(prediction.at("checkpoint")), "checkpoints_kept": _KEPT}
    member = prediction.built.get("member")
    if member:
        told["bank_bytes"] = member["count"] * member["bytes"]
    return told


def _notes(prediction: Prediction) -> list[str]:
    notes = list(prediction.placeholders)
    missing = {found["test_missing"] for found in prediction.trials.values()} - {None}
    if missing:
        notes.append(f"without the exam on the test split: {missing.pop()}")
    if prediction.axis.planned not in prediction.trials:
        tried = " and ".join(map(str, sorted(prediction.trials)))
        notes.append(f"tried with {tried} {prediction.axis.counts}, foretold for {prediction.axis.planned}")
    wall, processor = prediction.at("seconds"), prediction.at("cpu_seconds")
    if wall > _BUSY * processor and not prediction.built["on_gpu"]:
        notes.append(f"others kept this machine busy: of {wall:.3g} s a step, {processor:.3g} s were the processor's")
    return notes


def _require_room(experiment: Experiment, runtime: Runtime, prediction: Prediction, terms: Terms) -> None:
    needed = prediction.peak()
    if terms.memory is None or needed <= terms.memory:
        return
    ways = _ways_out(runtime, prediction, terms)
    raise DoesNotFit(
        f"run {experiment.run_id} needs {gib(needed)} on each of {terms.workers} workers, which may use "
        f"{gib(terms.memory)}. What would fit: {'; '.join(ways) if ways else 'workers with more memory'}"
    )


def _ways_out(runtime: Runtime, prediction: Prediction, terms: Terms) -> list[str]:
    """Return what would make a worker's part small enough, as far as the trials tell."""
    assert terms.memory is not None, "asked only where it is known"
    ways = prediction.axis.smaller(prediction.room(terms.memory))
    bank = prediction.built.get("bank")
    if bank and terms.workers > 1 and bank["mode"] == "copy" and bank["members"] > 1:
        rest = prediction.peak() - round(bank["bytes"] * (1 - 1 / terms.workers))
        if rest <= terms.memory:
            ways.append(f"bank: exchange in the cluster file ({gib(rest)}) instead of a copy")
    if runtime.precision == "fp32":
        ways.append("perhaps precision: bf16, which takes less for activations")
    return ways


def gib(amount: float) -> str:
    """Write bytes for a reader."""
    for unit, size in (("GiB", _GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            return f"{amount / size:.2f} {unit}"
    return f"{amount:.0f} B"
