"""Who sends which rows to whom."""

import time

import pytest
import torch

from raykd.distributed.exchange import plan_exchange
from raykd.distributed.world import World


def worlds(size: int) -> list[World]:
    return [World(rank, size, torch.device("cpu")) for rank in range(size)]


@pytest.mark.parametrize("whole", [False, True], ids=["a part each", "all to all"])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_worker_gets_its_part_in_order(size: int, whole: bool) -> None:
    rows = 48
    owners = torch.randint(size, (rows,), generator=torch.Generator().manual_seed(size))
    share = rows // size
    parts = [slice(0, rows) if whole else slice(rank * share, (rank + 1) * share) for rank in range(size)]
    plans = [plan_exchange(owners, parts, world) for world in worlds(size)]
    sent = [plan.own[plan.positions].split(plan.send) for plan in plans]
    for rank, plan in enumerate(plans):
        assert plan.receive == [len(sent[other][rank]) for other in range(size)]
        come = torch.cat([sent[other][rank] for other in range(size)])
        assert torch.equal(come[plan.order], torch.arange(rows)[parts[rank]])


def test_a_worker_may_have_none() -> None:
    plan = plan_exchange(torch.zeros(4, dtype=torch.int64), [slice(0, 2), slice(2, 4)], worlds(2)[1])
    assert (len(plan.own), plan.send, plan.receive) == (0, [0, 0], [2, 0])


def test_its_time_hardly_grows_with_the_workers() -> None:
    """At equal rows; with a pass over the rows for each worker 512 of them took some 50 times as long as 8."""

    def seconds(size: int) -> float:
        owners = torch.arange(8192) % size
        parts = [slice(rank * 8192 // size, (rank + 1) * 8192 // size) for rank in range(size)]
        world, best = World(0, size, torch.device("cpu")), float("inf")
        for _ in range(9):
            began = time.process_time()
            plan_exchange(owners, parts, world)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(512) < 8 * seconds(8)
