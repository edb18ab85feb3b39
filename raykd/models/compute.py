"""What a run computes, counted in a unit that machines and precisions do not change: forward passes of its teacher.

A network's call of n rows counts its multiply-accumulates once, twice where gradients flow through it to its input, and
three times where they reach its parameters too. Divided by those of the teacher's forward pass of one image this is how
many images the teacher could have looked at instead. Elementwise work, optimizers and reports are not counted.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raykd.distributed.updater import Compiler
from raykd.distributed.world import World

_FLOPS_PER_MAC = 2


class ComputeCounter:
    """Counts the multiply-accumulates of this worker's networks.

    Attributes:
        macs: of this worker, since the process began.
        before: of all workers, of earlier processes of the run.
        complete: whether all calls could be counted.
    """

    def __init__(self) -> None:
        """Begin at none."""
        self.macs, self.before, self.complete = 0.0, 0.0, True

    def total(self, world: World) -> float | None:
        """Return the multiply-accumulates of the run so far, of all workers; None if some could not be counted.

        Every worker must call it.
        """
        sums = world.sum(
            torch.tensor([self.macs, float(not self.complete)], dtype=torch.float64, device=world.device)
        ).tolist()
        return None if sums[1] else self.before + float(sums[0])

    def go_on(self, before: float | None, step: int) -> None:
        """Take what earlier processes of the run counted up to a step; a version before did not."""
        self.before = before or 0.0
        self.complete = before is not None or step == 0

    def counting(self, compiler: Compiler) -> Compiler:
        """Return a compiler whose callables count what they do."""

        def compiled(network: nn.Module) -> Callable[..., Any]:
            call, costs = compiler(network), dict[Any, float]()

            def counted(*args: Any) -> Any:
                key = tuple(arg.shape if isinstance(arg, Tensor) else arg for arg in args)
                if key not in costs:
                    costs[key] = self._measure(network, args)
                answer = call(*args)
                self.macs += costs[key] * _passes(network, answer)
                return answer

            return counted

        return compiled

    def _measure(self, network: nn.Module, args: tuple[Any, ...]) -> float:
        try:
            return forward_macs(network, *args)
        except Exception:  # whatever a network of the user's makes of being copied: it is only not counted
            self.complete = False
            return 0.0


def forward_macs(network: nn.Module, *args: Any) -> float:
    """Return the multiply-accumulates of a forward pass, of a copy: buffers and random numbers stay as they are."""
    twin = copy.deepcopy(network)
    devices = [arg.device for arg in args if isinstance(arg, Tensor) and arg.device.type == "cuda"]
    detached = [arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
    with torch.random.fork_rng(devices[:1]):
        return count_macs(twin, *detached)


def count_macs(call: Callable[..., Any], *args: Any) -> float:
    """Return the multiply-accumulates of a call without gradients, which may change what it is a call of."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(*args)
    return float(counter.get_total_flops()) / _FLOPS_PER_MAC


def _passes(network: nn.Module, answer: Any) -> int:
    first = answer[0] if isinstance(answer, tuple) else answer
    if not (isinstance(first, Tensor) and first.requires_grad):
        return 1
    return 3 if network.training and any(parameter.requires_grad for parameter in network.parameters()) else 2
