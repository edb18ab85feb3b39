"""Who sends which rows of a global batch to whom, where each worker has some of them and wants others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.distributed.world import World


@dataclass(frozen=True)
class RowExchange:
    """An exchange of rows, planned alike on every worker. All tensors are int64, on the CPU.

    Attributes:
        own: the global rows that this worker has, ascending.
        positions: those of ``own`` that it sends, those for worker 0 first, then those for worker 1, and so on.
        send: how many go to each worker.
        receive: how many come from each.
        order: puts what has come into the order of this worker's part.
    """

    own: Tensor
    positions: Tensor
    send: list[int]
    receive: list[int]
    order: Tensor

    def perform(self, rows: Tensor, world: World) -> Tensor:
        """Return this worker's part, of the rows that it sends, (len(positions), ...). Every worker must call it."""
        if world.size == 1:
            return rows
        return world.exchange(rows, self.send, self.receive)[self.order.to(rows.device, non_blocking=True)]


def plan_exchange(owners: Tensor, parts: Sequence[slice], world: World) -> RowExchange:
    """Return the exchange after which every worker has its part. Its time grows with the rows, hardly with the workers.

    Args:
        owners: the worker that has each row of the global batch, int64 (n,), on the CPU.
        parts: the rows that each worker is to have, one slice of step 1 a worker; they may overlap.
        world: of this worker.
    """
    own = (owners == world.rank).nonzero().flatten()
    bounds = torch.tensor([(part.start, part.stop) for part in parts])
    first, behind = torch.searchsorted(own, bounds).unbind(1)
    counts = behind - first
    begins = (first - (counts.cumsum(0) - counts)).repeat_interleave(counts)
    senders = owners[parts[world.rank]]
    return RowExchange(
        own=own,
        positions=torch.arange(len(begins)) + begins,
        send=counts.tolist(),
        receive=torch.bincount(senders, minlength=world.size).tolist(),
        # Rows come in the order of their senders; sorting by sender and undoing that gives every row its place.
        order=senders.argsort(stable=True).argsort(),
    )
