"""World: this worker's rank among the workers, and the collectives between them.

A world of one needs no process group, so single-process code and many-worker code are the same code.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raykd.distributed.progress import PROGRESS
from raykd.errors import RaykdError, UsageError, WorkerFailed, error_from_dict, error_to_dict

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=10)
_LOST = ("gloo", "Connection closed", "Connection reset", "Timed out", "NCCL")
"""Words of the libraries' errors where another worker has ended, or has not answered for as long as the timeout."""


@contextmanager
def _collective() -> Iterator[None]:
    """Count the time within as waiting, and tell in one line what becomes of the others.

    Raises:
        WorkerFailed: if the process of another worker has ended, or has not answered for as long as the timeout.
    """
    try:
        with PROGRESS.waiting():
            yield
    except RuntimeError as error:
        if not any(word in str(error) for word in _LOST):
            raise
        raise WorkerFailed(
            f"another worker ended, or did not answer in time, behind step {PROGRESS.step} (its own output tells why); "
            "the same command continues from the last checkpoint"
        ) from error


class _Mean(torch.autograd.Function):
    """Mean over workers. Its adjoint is the mean too, since ``Updater`` averages what comes out."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _averaged(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _averaged(gradients[0])


def _averaged(tensor: Tensor) -> Tensor:
    total = tensor.detach().clone()
    with _collective():
        dist.all_reduce(total)
    return total / dist.get_world_size()


@dataclass(frozen=True)
class World:
    """This worker's rank, the number of workers, device and precision."""

    rank: int
    size: int
    device: torch.device
    precision: str = "fp32"

    @classmethod
    def alone(cls, device: str | torch.device = "cpu", precision: str = "fp32") -> "World":
        """Return the world of a single process."""
        return cls(0, 1, torch.device(device), precision)

    @classmethod
    def current(cls, precision: str = "fp32") -> "World":
        """Return the world that torch.distributed or torchrun's environment describes.

        A process started by torchrun joins its process group here; Ray Train's workers have joined already.
        """
        device = torch.device("cpu")
        # A group joined over gloo was meant for CPUs, whatever devices can be seen from here.
        meant_for_cpu = dist.is_initialized() and "nccl" not in dist.get_backend()
        if torch.cuda.is_available() and not meant_for_cpu:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
            torch.cuda.set_device(device)
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _join("nccl" if device.type == "cuda" else "gloo")
        if not dist.is_initialized():
            return cls(0, 1, device, precision)
        return cls(dist.get_rank(), dist.get_world_size(), device, precision)

    def share(self, global_batch: int) -> int:
        """Return this worker's batch.

        Raises:
            UsageError: if the workers do not divide the batch.
        """
        if global_batch % self.size:
            fits = [n for n in range(1, global_batch + 1) if global_batch % n == 0 and n <= 2 * self.size]
            raise UsageError(
                f"global_batch {global_batch} does not divide among {self.size} workers; use one of "
                f"{fits} workers, or schedule.global_batch={self.size * (global_batch // self.size + 1)}"
            )
        return global_batch // self.size

    def slice(self, global_batch: int) -> slice:
        """Return the rows of the global batch that are this worker's."""
        batch = self.share(global_batch)
        return slice(self.rank * batch, (self.rank + 1) * batch)

    def randn(self, global_batch: int, *shape: int, seed: int, step: int) -> Tensor:
        """Draw this worker's rows of the step's standard normal noise, (B, *shape).

        The global batch is drawn and cut, so (seed, rank, step) decides the rows, workers never repeat
        each other's, and any number of workers together see the noise that one worker would.
        """
        return self.randn_whole(global_batch, *shape, seed=seed, step=step)[self.slice(global_batch)]

    def randn_whole(self, global_batch: int, *shape: int, seed: int, step: int) -> Tensor:
        """Draw all rows of the step's noise, (global batch, *shape), the same on every worker: see ``randn``."""
        generator = torch.Generator(self.device).manual_seed(mix(seed, step))
        return torch.randn(global_batch, *shape, generator=generator, device=self.device)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over workers, gradients included: a loss of it is that of the global batch."""
        if self.size == 1:
            return tensor
        result: Tensor = _Mean.apply(tensor)
        return result

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over workers (no gradient)."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        with _collective():
            dist.all_reduce(total)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the workers' equally shaped tensors stacked along a new first axis (no gradient)."""
        if self.size == 1:
            return tensor.detach()[None]
        rows = [torch.empty_like(tensor) for _ in range(self.size)]
        with _collective():
            dist.all_gather(rows, tensor.detach().contiguous())
        return torch.stack(rows)

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send every worker its rows and return what the others sent here (no gradient).

        All workers call it with equal row shapes and dtypes, and each knows beforehand how much comes from where.

        Args:
            rows: (n, ...), those for worker 0 first, then those for worker 1, and so on.
            send: how many of them go to each worker, n in all; this worker's own count among them.
            receive: how many come from each worker, m in all.

        Returns:
            (m, ...): worker 0's rows first, each worker's in the order in which it had them.
        """
        rows = rows.detach().contiguous()
        if self.size == 1:
            return rows
        received = rows.new_empty(sum(receive), *rows.shape[1:])
        with _collective():
            dist.all_to_all_single(received, rows, list(receive), list(send))
        return received

    def synchronise(self, network: nn.Module) -> None:
        """Give all workers rank 0's parameters and buffers, whatever a network was initialised from."""
        if self.size == 1:
            return
        for tensor in network.state_dict().values():
            contiguous = tensor.detach().contiguous().clone()  # in one memory order on all workers
            with _collective():
                dist.broadcast(contiguous, src=0)
            tensor.copy_(contiguous)

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value, a plain JSON-like object, on every worker."""
        if self.size == 1:
            return value
        box = [value if self.rank == 0 else None]
        with _collective():
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every worker's value, a plain JSON-like object, by rank, on every worker."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _collective():
            dist.all_gather_object(values, value)
        return values

    def agree(self, action: Callable[[], T], *, on_first: bool = False) -> T:
        """Run an action that may fail on some of the workers: it fails on all of them or on none.

        So no worker waits in the next collective for one that has raised. Every worker must call it; the action itself
        must not talk to other workers, since one that fails before that would leave them waiting there.

        Args:
            action: raises a RaykdError for failures it expects, an OSError for instance.
            on_first: run it on rank 0 alone.

        Returns:
            The action's own result on every worker; with ``on_first`` that of rank 0, plain data or a path.

        Raises:
            RaykdError: on all workers, that of the lowest rank that failed, in its class and with its message; what
                else a worker has raised itself is its cause.
            WorkerFailed: if what the lowest rank raised is no RaykdError, which means a bug. Any worker with a bug
                raises its own exception instead.
        """
        if self.size == 1:
            return action()
        result, own_error, own_failure = None, None, None
        if self.rank == 0 or not on_first:
            try:
                result = action()
            except Exception as error:  # whatever it is, the others must hear of it before it is raised
                own_error, own_failure = error, error_to_dict(self._for_others(error))
        if on_first:
            result, *failures = self.broadcast((result, own_failure))
        else:
            failures = self.gather_objects(own_failure)
        lowest = next((rank for rank, failure in enumerate(failures) if failure is not None), None)
        if own_error is not None and (lowest == self.rank or not isinstance(own_error, RaykdError)):
            raise own_error
        if lowest is not None:
            raise error_from_dict(failures[lowest]) from own_error
        return cast(T, result)

    def _for_others(self, error: Exception) -> RaykdError:
        """Return what the other workers raise for an error of this one."""
        if isinstance(error, RaykdError):
            return error
        name = type(error).__name__
        return WorkerFailed(f"worker {self.rank} failed with {name}: {error}; its output has the traceback")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks run: bfloat16 autocast, or nothing in float32."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _join(backend: str) -> None:
    """Join the process group of torchrun's environment, to be left before the interpreter ends.

    gloo's threads, if they outlive it, may abort a process that has done its work. They end with the last reference to
    the group, and some modules of torch keep one as a default argument unless they were imported before there was any;
    the first optimizer imports them in any case.
    """
    import_module("torch._dynamo")
    dist.init_process_group(backend, timeout=_TIMEOUT)
    if backend == "gloo":
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def mix(*numbers: int) -> int:
    """Mix seed, step and the like into one 63-bit seed (splitmix64), so that neighbours do not correlate."""
    state = 0
    for number in numbers:
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
