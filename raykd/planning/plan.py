"""Plan a run before it starts: memory of a worker, traffic between workers, time, disk."""

import logging
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raykd.config.runtime import Runtime
from raykd.engine.build import build_spec
from raykd.engine.disk import most_kept, set_bytes
from raykd.errors import RaykdError, UsageError
from raykd.files import MANIFEST, gib
from raykd.planning.predict import MOST_SECONDS, Prediction, TrialSite, predict
from raykd.recipe.experiment import Experiment, images_of_pool
from raykd.recipe.recipe import Recipe
from raykd.results import Plan, RunPlan
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_BUSY = 1.3  # from so many times the processor's time on, other programs have slowed the trial


@dataclass(frozen=True)
class Network:
    """What lies between the workers.

    Attributes:
        gbit_per_s: that each worker can send.
        latency_us: of a message, in microseconds.
    """

    gbit_per_s: float
    latency_us: float

    def seconds(self, workers: int, collectives: float, sent: float) -> float:
        """Return the seconds of so many collectives in which a worker sends so many bytes.

        A message crosses a tree of the workers up and down, one collective after the other, and nothing is computed
        meanwhile: what a library hides behind the computation comes off.
        """
        hops = 2 * math.ceil(math.log2(workers)) if workers > 1 else 0
        return collectives * hops * self.latency_us / 1e6 + sent * 8 / (self.gbit_per_s * 1e9)


@dataclass(frozen=True)
class WorkerBudget:
    """What each worker may use, and what it costs.

    Attributes:
        workers: how many there are.
        memory: bytes that each may use, or None where unknown.
        gpus: of each; 0 counts CPU-hours instead.
        cpus: of each.
        price: of one worker's hour, in whatever currency.
        crowding: how many times slower a step is, where workers share too few cores.
        network: between the workers; None where unknown.
    """

    workers: int
    memory: int | None
    gpus: float
    cpus: float
    price: float | None
    crowding: float = 1.0
    network: Network | None = None


def plan(
    experiment: Experiment, runtime: Runtime, site: TrialSite, budget: WorkerBudget, *, alone: bool = False
) -> Plan:
    """Return the plans of all runs that training this recipe means, or of its own ``alone``, and their sum.

    Raises:
        UsageError: if a run cannot fit into the memory, saying what would.
        RaykdError: as the recipe's own run would; for other runs such an error is the ``reason`` in their entry.
    """
    runs = []
    for run in experiment.runs:
        is_own = run.run_id == experiment.run_id
        if alone and not is_own:
            continue
        if not is_own and site.workspace.run(run.run_id).is_finished:
            runs.append(RunPlan(run.run_id, "finished"))
            continue
        most = f"{MOST_SECONDS / 60:.0f} minutes"
        logger.info("%s: trying a few steps on this machine: half a minute or more, %s at most", run.run_id, most)
        try:
            runs.append(RunPlan(run.run_id, "to train", **_plan_one(run, runtime, site, budget)))
        except RaykdError as error:
            if is_own or isinstance(error, DoesNotFit):
                raise
            runs.append(RunPlan(run.run_id, "not planned", reason=str(error)))
    total = {}
    for key in ("hours", "gpu_hours", "cpu_hours", "price"):
        if figures := [getattr(run, key) for run in runs if getattr(run, key) is not None]:
            total[key] = sum(figures)
    return Plan(experiment.recipe.name, experiment.run_id, budget.workers, runs, total)


class DoesNotFit(UsageError):
    """A run needs more memory than a worker may use."""


def _plan_one(experiment: Experiment, runtime: Runtime, site: TrialSite, budget: WorkerBudget) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="raykd-plan-") as folder:
        prediction = predict(experiment, runtime, site, Path(folder) / "store", memory=budget.memory)
    recipe = experiment.recipe
    _require_memory(experiment, runtime, prediction, budget)
    traffic = _traffic(prediction, budget)
    return {
        **prediction.axis.shares,
        **_memory(prediction, budget),
        **traffic,
        **_cost(recipe, prediction, budget, traffic),
        **_disk(experiment, prediction, site.workspace),
        "measured": {
            "device": prediction.built["device"],
            "size_is": prediction.axis.counts,
            "planned": prediction.axis.planned,
            "at": {
                str(size): {"seconds": trial["seconds"], "peak_bytes": max(trial["steps_peak"], trial["report_peak"])}
                for size, trial in sorted(prediction.trials.items())
            },
        },
        "notes": _notes(prediction, recipe.schedule.steps),
    }


def _memory(prediction: Prediction, budget: WorkerBudget) -> dict[str, Any]:
    """Return the sizes of networks and of what fills a worker's memory."""
    built = prediction.built
    numbers = dict(built["parameters"])
    member = built.get("member")
    trained = sum(built["trained"].values())
    wave_parameters = member["parameters"] * prediction.axis.members if member else 0
    if member and wave_parameters:
        numbers |= {"one generator": member["parameters"], "generators of a wave": wave_parameters}
        trained += wave_parameters
    optimizer = round(prediction.at("optimizer"))
    pool = round(prediction.at("pool_memory"))
    kept = prediction.at("built") + optimizer + 4 * wave_parameters + prediction.at("pool_added")
    activations = prediction.at("steps_peak") - kept
    return {
        "parameters": numbers,
        "trained_parameters": trained,
        "optimizer_bytes": optimizer,
        "activation_bytes": max(0, round(activations)),
        **({"pool_bytes": pool} if pool else {}),
        "peak_bytes": prediction.peak(),
        "available_bytes": budget.memory,
    }


def _traffic(prediction: Prediction, budget: WorkerBudget) -> dict[str, Any]:
    """Return the bytes that a worker sends in a step, and how a bank is held."""
    kinds = sorted({kind for trial in prediction.trials.values() for kind in trial["traffic"]})
    sent = {}
    for kind in kinds:
        trials_of_kind = {
            size: {**trial, kind: trial["traffic"].get(kind, 0)} for size, trial in prediction.trials.items()
        }
        sent[kind] = round(replace(prediction, trials=trials_of_kind).at(kind))
    figures: dict[str, Any] = {"traffic_bytes": sent, "traffic_bytes_in_all": sum(sent.values())}
    collectives, in_report = prediction.at("collectives"), prediction.at("report_collectives")
    if budget.workers > 1:
        figures |= {"collectives_per_step": collectives, "collectives_per_report": in_report}
    if budget.workers > 1 and budget.network is not None:
        seconds = budget.network.seconds
        figures |= {
            "network_seconds_per_step": seconds(budget.workers, collectives, sum(sent.values())),
            "network_seconds_per_report": seconds(budget.workers, in_report, prediction.at("report_sent")),
        }
    bank = prediction.built.get("bank")
    if bank:
        figures["bank"] = dict(bank)
    return figures


def _cost(recipe: Recipe, prediction: Prediction, budget: WorkerBudget, traffic: dict[str, Any]) -> dict[str, Any]:
    """Return time, hours of processors and price, with the network between workers where that is known."""
    steps, report_every = recipe.schedule.steps, recipe.schedule.report_every
    sizes = prediction.axis.stages
    step_network, report_network = (traffic.get(f"network_seconds_per_{kind}", 0.0) for kind in ("step", "report"))
    step = prediction.at("seconds") * budget.crowding + step_network
    seconds = sum(prediction.at("seconds", size) * budget.crowding + step_network for size in sizes) * steps
    reports = math.ceil(steps * len(sizes) / report_every)
    report = prediction.at("report_seconds") * budget.crowding + report_network
    hours = (seconds + reports * report) / 3600
    figures = {
        "seconds_per_step": step,
        "cpu_seconds_per_step": prediction.at("cpu_seconds"),
        "steps": steps * len(sizes),
        "seconds_per_report": report,
        "reports": reports,
        "hours": hours,
    }
    if budget.gpus:
        figures["gpu_hours"] = hours * budget.workers * budget.gpus
    else:
        figures["cpu_hours"] = hours * budget.workers * budget.cpus
    if budget.price is not None:
        figures["price"] = hours * budget.workers * budget.price
    return figures


def _disk(experiment: Experiment, prediction: Prediction, workspace: Workspace) -> dict[str, Any]:
    missing = [one for one in experiment.image_sets if not (workspace.store / one.name / MANIFEST).is_file()]
    sets = sum(set_bytes(one.images, build_spec(experiment.recipe.data, workspace)) for one in missing)
    figures: dict[str, Any] = {
        "disk_bytes": round(prediction.at("disk")) + sets,
        "checkpoint_bytes": round(prediction.at("checkpoint")),
        "checkpoints_kept": most_kept(experiment.recipe.sentinel),
    }
    member = prediction.built.get("member")
    if member:
        figures["bank_bytes"] = member["count"] * member["bytes"]
    if images := images_of_pool(experiment.recipe):
        figures |= {"pool_images": images, "pool_disk_bytes": round(prediction.at("pool_disk"))}
    return figures


def _notes(prediction: Prediction, steps: int) -> list[str]:
    notes = list(prediction.placeholders)
    missing = {trial["test_missing"] for trial in prediction.trials.values()} - {None}
    if missing:
        notes.append(f"without the test split evaluation: {missing.pop()}")
    if prediction.axis.planned not in prediction.trials:
        sizes = " and ".join(map(str, sorted(prediction.trials)))
        notes.append(f"tried with {sizes} {prediction.axis.counts}, predicted for {prediction.axis.planned}")
    wall, processor = prediction.at("seconds"), prediction.at("cpu_seconds")
    if wall > _BUSY * processor and not prediction.built["on_gpu"]:
        idle = processor * steps * len(prediction.axis.stages) / 60
        notes.append(
            f"others kept this machine busy: of {wall:.3g} s a step, {processor:.3g} s were the processor's, so on an "
            f"idle one all steps may take {idle:.2g} min"
        )
    return notes


def _require_memory(experiment: Experiment, runtime: Runtime, prediction: Prediction, budget: WorkerBudget) -> None:
    needed = prediction.peak()
    if budget.memory is None or needed <= budget.memory:
        return
    remedies = _remedies(runtime, prediction, budget)
    raise DoesNotFit(
        f"run {experiment.run_id} needs {gib(needed)} on each of {budget.workers} workers, which may use "
        f"{gib(budget.memory)}. What would fit: {'; '.join(remedies) if remedies else 'workers with more memory'}"
    )


def _remedies(runtime: Runtime, prediction: Prediction, budget: WorkerBudget) -> list[str]:
    """Return settings by which a worker's part would fit, as predicted from the trials."""
    assert budget.memory is not None, "asked only where it is known"
    remedies = prediction.axis.smaller(prediction.largest_size(budget.memory))
    bank = prediction.built.get("bank")
    if bank and budget.workers > 1 and bank["mode"] == "copy" and bank["members"] > 1:
        with_exchange = prediction.peak() - round(bank["bytes"] * (1 - 1 / budget.workers))
        if with_exchange <= budget.memory:
            remedies.append(f"bank: exchange in the cluster file ({gib(with_exchange)}) instead of a copy")
    if runtime.precision != "bf16":
        remedies.append("perhaps precision: bf16, which takes less for activations")
    return remedies
