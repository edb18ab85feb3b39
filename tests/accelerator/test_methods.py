"""Every method on the device: nothing left elsewhere, no step that waits, the numbers of the processor bit for bit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.distributed.world import World
from raykd.methods import METHODS, Method
from raykd.methods.base import ShardedMethod
from tests.accelerator.device import accelerator
from tests.accelerator.memory import Sync
from tests.accelerator.toys import VARIANTS, advance, made, step, streams_of
from tests.methods.toy import BATCH, assert_same, tensors

STEPS = 5
WAITING = {
    # Once in thousands of steps the host builds a wave of generators,
    "lsgdfd": {"raykd/methods/members.py", "raykd/methods/inversion.py"},
    "lsgdfd_global": {"raykd/methods/members.py"},
    # and images that leave a full pool before they are saved are brought to main memory, once in a call of many steps.
    "pool_inversion_contrast": {"raykd/data/image_pool.py"},
    "pool_inversion_labels": {"raykd/data/image_pool.py"},
}
"""Variants whose steps may wait, and the files that do."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_method_is_among_the_variants() -> None:
    assert {method for method, _ in VARIANTS.values()} == set(METHODS)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_method_computes_there_what_it_computes_here_and_no_step_waits(name: str) -> None:
    here = made(name, World.alone())
    expected = advance(here, STEPS)
    with accelerator() as device:
        there = made(name, World.alone("cuda"))
        streams = streams_of(there)
        waits: list[Sync] = []
        found = []
        for _ in range(STEPS):
            device.syncs.clear()
            metrics = step(there, streams)
            waits += device.syncs
            found.append({name: value.item() for name, value in metrics.items()})
        assert device.faults == []
        allowed = WAITING.get(name, set())
        assert [str(sync) for sync in waits if sync.where.partition(":")[0] not in allowed] == []
        assert bool(waits) == bool(allowed)
        networks = [*there.trained.values(), *there.context.networks.values()]
        assert {tensor.device.type for one in networks for tensor in one.state_dict().values()} == {"cuda"}
        ours = {key: value.cpu() for key, value in state(there).items()}
    assert found == expected
    assert_same(ours, state(here))


@pytest.mark.parametrize(
    ("name", "fields", "turns"),
    [
        ("lsgdfd", {}, [0, 10]),  # the first wave, then the second
        ("pixel_inversion", {"images": 2 * BATCH}, [9, 19]),  # the ends of both jobs
    ],
)
def test_between_the_turns_of_waves_and_jobs_no_step_waits(name: str, fields: dict[str, Any], turns: list[int]) -> None:
    with accelerator() as device:
        method = made(name, World.alone("cuda"), wave=2, **fields)
        waiting = []
        for index in range(20):
            device.syncs.clear()
            method.step({})
            waiting += [index] * bool(device.syncs)
    assert waiting == turns
    assert device.faults == []


@pytest.mark.parametrize("name", ["kd", "dafl", "bank_kd", "lsgdfd_single", "pool_inversion_contrast"])
def test_in_bfloat16_nothing_is_left_elsewhere_and_nothing_waits(name: str) -> None:
    with accelerator() as device:
        method = made(name, World.alone("cuda", "bf16"))
        streams = streams_of(method)
        device.syncs.clear()
        for _ in range(2):
            step(method, streams)
        assert (device.syncs, device.faults) == ([], [])


def state(method: Method) -> dict[str, Tensor]:
    shard = method.shard() if isinstance(method, ShardedMethod) else {}
    return {**tensors(method.state_dict()), **shard}
