"""One process that simulates rank 0 of several workers: it runs that worker's share of the work and counts its traffic.

The other workers are assumed to send what this one sends.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raykd.distributed.world import World


class _Echo(torch.autograd.Function):
    """The mean over workers that are all alike; counts the way there and the gradient's way back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: "SimulatedWorld") -> Tensor:
        ctx.world = world
        world.count_reduction("batch_terms", tensor)
        return tensor.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.world.count_reduction("batch_terms", gradients[0])
        return gradients[0], None


@dataclass(frozen=True)
class SimulatedWorld(World):
    """Rank 0 of ``size`` workers without the others.

    Attributes:
        sent: bytes that this worker would have sent, by kind: ``gradients`` (sums), ``batch_terms`` (means),
            ``gathered`` and ``exchanged``. Reductions and gathers count as rings do them.
        calls: how many collectives there were, by kind; ``objects`` and ``copies`` among them, whose bytes are few or
            come once.
    """

    sent: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def forget(self) -> None:
        """Count from nothing again."""
        self.sent.clear()
        self.calls.clear()

    def count_reduction(self, kind: str, tensor: Tensor) -> None:
        """Count a ring all-reduce: every worker sends 2 (W - 1) / W of the tensor."""
        self._count(kind, round(2 * (self.size - 1) / self.size * tensor.numel() * tensor.element_size()))

    def _count(self, kind: str, sent: int = 0) -> None:
        self.calls[kind] += 1
        self.sent[kind] += sent

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the tensor; its gradient passes too."""
        result: Tensor = _Echo.apply(tensor, self)
        return result

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the tensor times the number of workers."""
        self.count_reduction("gradients", tensor)
        return tensor.detach() * self.size

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensor as often as there are workers, along a new first axis.

        A row of whole numbers tells which of some things this worker has: the next workers have the next of them.
        """
        self._count("gathered", (self.size - 1) * tensor.numel() * tensor.element_size())
        segment = 0 if tensor.is_floating_point() or tensor.ndim != 1 else int(tensor.count_nonzero())
        return torch.stack([tensor.detach().roll(rank * segment) for rank in range(self.size)])

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Return as many rows as would come, of those that would leave, over and over."""
        leaving, count = len(rows) - send[self.rank], sum(receive)
        self._count("exchanged", leaving * rows[:1].numel() * rows.element_size())
        if not len(rows):
            return rows.new_zeros(count, *rows.shape[1:])
        return rows.detach()[torch.arange(count, device=rows.device) % len(rows)]

    def synchronise(self, network: nn.Module) -> None:
        """Leave the network: it is the one that all would get."""
        self.calls["copies"] += len(network.state_dict())

    def broadcast(self, value: Any) -> Any:
        """Return the value."""
        self.calls["objects"] += 1
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the value as often as there are workers."""
        self.calls["objects"] += 1
        return [value] * self.size
