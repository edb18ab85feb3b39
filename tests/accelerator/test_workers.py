"""Workers and their devices: who has which, who joins over what, and what they send each other."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.testing._internal.distributed.fake_pg import FakeStore

from raykd.distributed.world import World
from tests.accelerator.device import accelerator
from tests.accelerator.pair import METHODS, RECIPES
from tests.worker_pair import run_two_workers


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """The backends that were asked for, and the device that was the process's then; the group itself sends nothing."""
    asked: list[tuple[str, int]] = []
    join = dist.init_process_group

    def note(backend: str, timeout: timedelta) -> None:
        asked.append((backend, torch.cuda.current_device()))
        join("fake", rank=3, world_size=4, store=FakeStore())

    monkeypatch.setattr(dist, "init_process_group", note)
    yield asked
    if dist.is_initialized():
        dist.destroy_process_group()


def started(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("local_rank", "devices", "index"), [("3", 4, 3), ("1", 2, 1), ("0", 4, 0)])
def test_a_worker_of_torchrun_takes_the_device_of_its_place_on_the_machine_and_joins_over_nccl(
    local_rank: str, devices: int, index: int, joined: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started(monkeypatch, RANK="3", WORLD_SIZE="4", LOCAL_RANK=local_rank, LOCAL_WORLD_SIZE=str(devices))
    with accelerator(devices) as device:
        world = World.current()
        assert (world.rank, world.size, world.device) == (3, 4, torch.device("cuda", index))
        assert joined == [("nccl", index)], "the device is chosen first: NCCL would take the first one"
        assert torch.ones(1, device="cuda").device == world.device
    assert device.faults == []


def test_a_process_alone_takes_the_first_device(monkeypatch: pytest.MonkeyPatch, joined: list[Any]) -> None:
    started(monkeypatch)
    with accelerator(4):
        assert World.current() == World(0, 1, torch.device("cuda", 0))
    assert joined == []


def test_without_devices_workers_join_over_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, RANK="3", WORLD_SIZE="4", LOCAL_RANK="3")
    asked = []

    def note(backend: str, timeout: timedelta) -> None:
        asked.append(backend)

    monkeypatch.setattr(dist, "init_process_group", note)
    monkeypatch.setattr("atexit.register", lambda leave: None)
    assert World.current().device.type == "cpu"
    assert asked == ["gloo"]


def test_a_group_that_was_joined_over_gloo_computes_on_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started(monkeypatch, LOCAL_RANK="0")
    dist.init_process_group("gloo", store=FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        with accelerator():
            assert World.current() == World(0, 1, torch.device("cpu"))
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two workers found."""
    folder = tmp_path_factory.mktemp("pair")
    run_two_workers("tests.accelerator.pair", folder, seconds=400)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_workers_send_each_other_what_is_on_their_own_devices(workers: list[dict[str, Any]]) -> None:
    for worker in workers:
        assert worker["faults"][:-2] == []
        assert worker["refused"] == [
            "No backend type associated with device type cpu", "c10d::allreduce_",
        ], "what NCCL would not send"  # fmt: skip
        assert worker.keys() >= {*METHODS, *RECIPES}
    assert [workers[0][name] for name in RECIPES] == [workers[1][name] for name in RECIPES]
