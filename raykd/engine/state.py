"""From a running method to a checkpoint and back, bit for bit on CPUs at the same number of workers.

Parameters are equal on all workers; batch-normalisation buffers are not, since each worker normalises its own share.
The checkpoint therefore keeps every worker's buffers, and evaluation uses their average.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from raykd.artifacts.pool_files import PoolFiles
from raykd.distributed.memory import is_out_of_memory
from raykd.distributed.world import World
from raykd.engine.evaluator import Evaluator
from raykd.engine.selection import Selection, Weights
from raykd.engine.sentinel import Sentinel
from raykd.files import describe
from raykd.methods.base import BankMethod, Method, PoolMethod, ShardedMethod
from raykd.store.checkpoint import Checkpoint, UnfitCheckpoint, pool_files, read_checkpoint
from raykd.store.run_directory import RunDirectory

_UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What torch, and a method, make of tensors of other names and shapes."""
_DEVICES = re.compile(r"\b(CUDA|HIP|MPS|XPU)\b")


def averaged_weights(network: nn.Module, world: World) -> Weights:
    """Return the state dict with floating-point buffers averaged over workers."""
    weights = dict(network.state_dict())
    buffers = _float_buffers(network)
    flat = world.sum(_flat((b for _, b in buffers), world)) / world.size
    pieces = flat.split([buffer.numel() for _, buffer in buffers])
    for (name, buffer), piece in zip(buffers, pieces, strict=True):
        weights[name] = piece.view_as(buffer)
    return weights


def score_student(method: Method, selection: Selection, evaluator: Evaluator) -> dict[str, float]:
    """Score the current student and offer it to the selection; no figures where the method has no student."""
    if "student" not in method.roles:
        return {}
    weights = averaged_weights(method.student, method.world)
    selection.candidate.load_state_dict(weights)
    test = evaluator.score(selection.candidate)
    return {**test, **selection.consider(weights, method.steps_done, test)}


def capture(
    method: Method, selection: Selection, seconds: float, samples: bytes | None, sentinel: Sentinel
) -> Checkpoint:
    """Collect this worker's part of the checkpoint, on rank 0 what all share too; every worker must call it."""
    world = method.world
    products = method.products() if isinstance(method, BankMethod) and method.milestone else {}
    shard = method.shard() if isinstance(method, ShardedMethod) else {}
    images = method.new_images() if isinstance(method, PoolMethod) else None
    macs = method.context.compute.total(world)
    rows = world.gather(_flat((b for n in method.trained.values() for _, b in _float_buffers(n)), world))
    weights = {}
    if "student" in method.roles:
        weights = {**selection.weights, "last": averaged_weights(method.student, world)}
    if world.rank != 0:
        return Checkpoint(method.steps_done, world.size, {}, {}, shard=shard, products=products, images=images)
    state = {
        "method": method.state_dict(),
        "selection": selection.state_dict(),
        "buffers": rows.cpu(),
        "seconds": seconds,
        "macs": macs,
        "phases": method.context.clock.total(),
    }
    said = sentinel.warnings, sentinel.kept_step
    return Checkpoint(method.steps_done, world.size, weights, state, samples, shard, products, *said, images)


def restore(path: Path | None, method: Method, selection: Selection) -> float:
    """Load a checkpoint into the method and the selection; return the seconds already spent.

    Every worker must call it.

    Raises:
        UnfitCheckpoint: on all workers, if what one of them reads is not of this run; then both are to be built anew.
    """
    if path is None:
        return 0.0

    def load() -> float:
        try:
            return _load(path, method, selection)
        except _UNFIT as error:
            if is_out_of_memory(error) or _DEVICES.search(str(error)):  # a failure of the machine, not of the file
                raise
            raise unfit(path, error) from error

    return method.world.agree(load)


def unfit(path: Path, error: Exception) -> UnfitCheckpoint:
    """Return the error for a checkpoint whose content is not that of its run."""
    what = f"{error} is missing" if isinstance(error, KeyError) else describe(error)
    return UnfitCheckpoint(
        f"checkpoint {path} is not of this run ({what}); restore it from a backup, or remove it to go on from the one "
        "before it"
    )


def _load(path: Path, method: Method, selection: Selection) -> float:
    checkpoint = read_checkpoint(path)
    method.load_state_dict(checkpoint.state["method"])
    if method.steps_done != checkpoint.step:
        raise ValueError(f"its method has done {method.steps_done} steps")
    if isinstance(method, ShardedMethod):
        method.load_shard(checkpoint.shard)
    if isinstance(method, PoolMethod):
        saved = PoolFiles(RunDirectory(path.parent.parent), pool_files(path), method.context.spec.num_classes)
        method.load_images(saved)
    weights = {name: dict(tensors) for name, tensors in checkpoint.weights.items()}
    selection.load_state_dict(checkpoint.state["selection"], weights)
    rows, world = checkpoint.state["buffers"], method.world
    row = rows[world.rank] if len(rows) == world.size else rows.mean(0)
    buffers = [b for network in method.trained.values() for _, b in _float_buffers(network)]
    for buffer, piece in zip(buffers, row.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(piece.view_as(buffer))
    method.context.compute.go_on(checkpoint.state.get("macs"), checkpoint.step)
    method.context.clock.go_on(checkpoint.state.get("phases", {}))
    return float(checkpoint.state["seconds"])


def _float_buffers(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, b) for name, b in network.named_buffers() if b.is_floating_point()]


def _flat(tensors: Iterable[Tensor], world: World) -> Tensor:
    rows = [tensor.reshape(-1) for tensor in tensors]
    return torch.cat(rows) if rows else torch.zeros(0, device=world.device)
