"""Time a few steps of the real method and measure their memory: the program of a process that does nothing else.

It builds what a worker would build, by ``engine.build``, and runs that worker's share alone (``SimulatedWorld``). Only
a fresh process has a peak of memory that means this work and no other; ``planning.predict`` starts it.
"""

import ctypes
import importlib
import json
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from raykd.config.runtime import Runtime
from raykd.data.datasets import Images, count_images
from raykd.data.stored import StoredImages
from raykd.distributed.host import float32_products, prepare_host
from raykd.distributed.provenance import describe_environment
from raykd.distributed.simulated import SimulatedWorld
from raykd.distributed.world import World
from raykd.engine.build import Built, build
from raykd.engine.disk import disk_need
from raykd.engine.evaluator import Evaluator
from raykd.engine.fit import fit
from raykd.engine.reporter import LocalReporter
from raykd.engine.sentinel import Sentinel
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError, RaykdError, UsageError, error_to_dict
from raykd.generators import EVERY, GeneratorBank
from raykd.methods.base import BankMethod, PoolMethod
from raykd.models.permission import permit
from raykd.planning.placeholders import make_placeholders, one_member
from raykd.recipe.experiment import experiment_from_dict
from raykd.recipe.recipe import Recipe, without_test
from raykd.recipe.sections import DataConfig, ScheduleConfig
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

WARM_UP = 2
"""Steps that are not timed."""
_LONG_ENOUGH = 20.0  # seconds of steps, or of reports, after which no more are added
_PR_SET_PDEATHSIG = 1
_REPORTS = 2  # the first of which also loads what reports need
_TEST_IMAGES = 512  # of each worker, to time the evaluation with


@dataclass(frozen=True)
class ProfileTask:
    """Input of the profiling process: what to build, where, and how many steps to time (0: only describe it).

    ``schedule`` is that of the run which is planned, whatever the trial's.
    """

    experiment: Mapping[str, Any]
    workers: int
    runtime: Mapping[str, Any]
    store: str
    data_root: str | None
    steps: int
    schedule: Mapping[str, Any]
    imports: tuple[str, ...] = ()


def _perform(task: ProfileTask) -> dict[str, Any]:
    """Build, step, report once, and return figures in seconds and bytes."""
    # Asking the teacher about a whole set takes longer than a plan may.
    runtime = Runtime.model_validate({**task.runtime, "teacher_logits": "live"})
    for name in task.imports:
        importlib.import_module(name)
    prepare_host(runtime.threads)
    world = World.current(runtime.precision)
    if task.workers > 1:
        world = SimulatedWorld(0, task.workers, world.device, world.precision)
    experiment = experiment_from_dict(task.experiment)
    permit(experiment.networks)
    recipe = experiment.recipe
    workspace = Workspace(Path(task.data_root) if task.data_root else None, Path(task.store))
    built = build(experiment.with_recipe(without_test(recipe)), world, runtime, workspace)
    schedule = ScheduleConfig.model_validate(task.schedule)
    disk = disk_need(built, recipe.model_copy(update={"schedule": schedule}))
    figures: dict[str, Any] = {
        "built": _memory(world)[0],
        "device": _device(world),
        "on_gpu": world.device.type == "cuda",
        **_describe(built),
        "checkpoint": disk.checkpoint,
        "disk": disk.total,
        "pool_disk": disk.pool,
        "pool_memory": _pool_bytes(built, recipe, schedule.steps),
    }
    if not task.steps:
        return figures
    _forget_peak(world)
    optimizers: WeakSet[Optimizer] = WeakSet()  # not those that a step makes anew, which would pile up
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: optimizers.add(optimizer))
    phases = built.method.phases(recipe.method, schedule.steps)
    with float32_products(world.precision, world.device):
        figures |= _steps(built, world, task.steps, phases)
    hook.remove()
    figures["optimizer"] = sum(_state_bytes(optimizer) for optimizer in optimizers)
    # On a GPU it is allocated when the method is built, or it is in main memory: no step adds to the GPU's.
    figures["pool_added"] = unfilled = figures["pool_memory"] if world.device.type == "cpu" else 0
    figures["steps_peak"] = _memory(world)[1] + unfilled
    _forget_peak(world)
    figures |= time_report(built, recipe, world, workspace.data, figures.pop("last_seconds"))
    figures["report_peak"] = _memory(world)[1] + unfilled
    return figures


def _describe(built: Built) -> dict[str, Any]:
    """Count parameters by role, and describe a bank and the members of one."""
    method = built.method
    networks = {**method.context.networks, **method.trained}
    figures: dict[str, Any] = {
        "parameters": {role: _count_parameters(network) for role, network in networks.items()},
        "trained": {role: _count_parameters(network) for role, network in method.trained.items()},
        "total_steps": method.total_steps,
        "classes": built.spec.num_classes,
    }
    bank = method.context.networks.get("bank")
    if bank is not None:
        assert isinstance(bank, GeneratorBank), "made by the engine"
        tensors = [*bank.parameters(), *bank.buffers()]
        all_classes = EVERY in bank.classes or len(bank.classes) == built.spec.num_classes
        figures["bank"] = {
            "mode": "copy" if all_classes else "exchange",
            "members": len(bank.classes),
            "bytes": sum(t.numel() * t.element_size() for t in tensors),
            "dtype": str(tensors[0].dtype).removeprefix("torch."),
        }
    if isinstance(method, BankMethod):
        manifest = method.products_manifest()
        member = one_member(manifest)
        state = member.member_state(manifest["classes"][0])
        figures["member"] = {
            "count": len(manifest["classes"]),
            "parameters": _count_parameters(member),
            "bytes": sum(t.numel() * t.element_size() for t in state.values()),
        }
    return figures


def _pool_bytes(built: Built, recipe: Recipe, steps: int) -> int:
    """Return what a worker's part of a pool of images will take; a few steps fill, and so touch, next to none of it."""
    method = built.method
    if not isinstance(method, PoolMethod):
        return 0
    images = method.images_held(recipe.method, steps, recipe.schedule.global_batch)
    return images * method.image_bytes // method.world.size


def _steps(built: Built, world: World, count: int, phases: Sequence[range]) -> dict[str, Any]:
    """Return the seconds of a step and the bytes it sends by kind, as means over a run of these phases.

    Of each phase some steps are timed after its warm-up; their median counts for the others.
    """
    seconds = _LONG_ENOUGH / len(phases)
    found = [_time_phase(built, world, count, phase if len(phases) > 1 else None, seconds) for phase in phases]
    weights = [len(phase) / sum(map(len, phases)) for phase in phases]
    pairs = list(zip(weights, found, strict=True))
    means = ("seconds", "cpu_seconds", "collectives")
    figures = {key: sum(weight * one[key] for weight, one in pairs) for key in means}
    kinds = {kind for one in found for kind in one["traffic"]}
    traffic = {kind: round(sum(weight * one["traffic"].get(kind, 0) for weight, one in pairs)) for kind in kinds}
    return {**figures, "traffic": traffic, "last_seconds": found[-1]["seconds"]}


def _time_phase(built: Built, world: World, count: int, phase: range | None, seconds: float) -> dict[str, Any]:
    """Return the median seconds of a step of a phase after the warm-up, the bytes it sends by kind, its collectives.

    After so many seconds no step is added, also where that leaves none but those of the warm-up: then its last counts.
    """
    method, walls, processor, traffic, collectives = built.method, [], [], {}, 0
    began = time.perf_counter()
    for _ in range(WARM_UP + count):
        if phase is not None and method.steps_done not in phase:
            method.steps_done = phase.start
        batches = {name: stream.batch(method.steps_done) for name, stream in built.streams.items()}
        if isinstance(world, SimulatedWorld):
            world.forget()
        wait_for(world)
        wall, cpu = time.perf_counter(), time.process_time()
        method.step(batches)
        wait_for(world)
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
        if isinstance(world, SimulatedWorld):
            traffic, collectives = dict(world.sent), world.calls.total()
        if time.perf_counter() - began > seconds:
            break
    timed = slice(min(WARM_UP, len(walls) - 1), None)
    medians = {"seconds": median(walls[timed]), "cpu_seconds": median(processor[timed])}
    return {**medians, "traffic": traffic, "collectives": collectives}


def time_report(
    built: Built, recipe: Recipe, world: World, data_root: Path | None, step_seconds: float, reports: int = _REPORTS
) -> dict[str, Any]:
    """Return the seconds of the last of some reports, and why they are without the test split, if it is not there.

    The evaluation is timed on a part of that and scaled to the whole. ``step_seconds`` are those of a step.
    """
    method, evaluator, scale, missing = built.method, built.evaluator, 1.0, None
    if recipe.data.test and "student" in method.roles:
        try:
            total = count_images(recipe.data.name, "test", data_root)
            count = min(total, _TEST_IMAGES * world.size)
            images = _open_test(built, recipe.data, torch.arange(count), total)
        except (UsageError, CorruptError) as error:
            missing = str(error)
        else:
            scale = total / count
            evaluator = Evaluator(images, built.spec, world, built.teacher)
    with tempfile.TemporaryDirectory() as folder:
        reporter = LocalReporter(RunDirectory(Path(folder)), lambda: True, world)
        for _ in range(reports):
            schedule = recipe.schedule.model_copy(update={"report_every": method.steps_done + 1})
            if isinstance(world, SimulatedWorld):
                world.forget()
            began = time.perf_counter()
            with suppress(Interrupted):  # as it is asked to be
                fit(
                    method,
                    built.streams,
                    built.teacher,
                    evaluator,
                    schedule=schedule,
                    reporter=reporter,
                    sentinel=Sentinel(recipe.sentinel),
                    resume=None,
                )
            whole = time.perf_counter() - began
            seconds = whole - step_seconds
            if whole > _LONG_ENOUGH:
                break
        sent, collectives = (world.sent, world.calls) if isinstance(world, SimulatedWorld) else (Counter(), Counter())
        of_report = {"report_sent": sent.total(), "report_collectives": collectives.total()}
        began = time.perf_counter()
        if "student" in method.roles:
            evaluator.score(method.student)
        seconds += (scale - 1) * (time.perf_counter() - began)
    return {
        "report_seconds": max(0.0, seconds),
        **of_report,
        "test_missing": missing,
    }


def _open_test(built: Built, data: DataConfig, rows: Tensor, total: int) -> Images | StoredImages:
    """Open some rows of the test split as the run does: decoded at every evaluation where all exceed its buffer."""
    if data.buffer is not None and total > data.buffer:
        images = built.opened.open_stored("test", data.name, "test", built.spec)
        if isinstance(images, StoredImages):
            return images.select(rows)
    return built.opened.open("test", data.name, "test", built.spec, rows)


def _count_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _state_bytes(optimizer: Optimizer) -> int:
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _device(world: World) -> str:
    environment = describe_environment(world)
    return (
        environment["gpu"]
        or f"{environment['cpu']}, {environment['threads_per_worker']} of {environment['cores']} cores"
    )


def wait_for(world: World) -> None:
    """Return once the device has done all that it was asked for."""
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)


def _memory(world: World) -> tuple[int, int]:
    """Return the bytes in use and their peak since ``_forget_peak``: of the GPU, or resident in main memory."""
    if world.device.type == "cuda":
        return torch.cuda.memory_allocated(world.device), torch.cuda.max_memory_allocated(world.device)
    try:
        # Not getrusage where this exists: there a process inherits the peak of the one that started it.
        lines = Path("/proc/self/status").read_text().splitlines()
        table = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
        return 1024 * int(table["VmRSS"]), 1024 * int(table["VmHWM"])
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak


def _forget_peak(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    else:
        with suppress(OSError):  # where it cannot be done, later peaks contain the earlier ones
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from what is resident


def answer(task: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Do a task, ``prepare`` (see ``placeholders``) or ``measure``; return its findings, or its error as data."""
    try:
        if task == "prepare":
            workspace = Workspace(
                Path(arguments["data_root"]) if arguments["data_root"] else None, Path(arguments["store"])
            )
            requested = experiment_from_dict(arguments["experiment"])
            experiment, placeholders = make_placeholders(requested, workspace, Path(arguments["at"]))
            return {"experiment": experiment.to_dict(), "placeholders": placeholders}
        return _perform(ProfileTask(**{**arguments, "imports": tuple(arguments["imports"])}))
    except RaykdError as error:
        return error_to_dict(error)


def _end_with_parent() -> None:
    """Have the system end this process when the one that started it ends, however that is: Linux only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    print(json.dumps(answer(sys.argv[1], json.load(sys.stdin))))
