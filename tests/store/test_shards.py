"""What each worker alone holds: written by it, found by whoever goes on, and torn like any other part."""

from pathlib import Path

import torch

from raykd.store.checkpoint import (
    Checkpoint,
    Sums,
    find_fault,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
    write_shard,
)

WORKERS = 3


def part(rank: int) -> Checkpoint:
    """What worker ``rank`` brings: rank 0 what all share too."""
    shard = {f"{rank}/w": torch.full((2, 3), float(rank)), f"{rank}/n": torch.tensor(rank)}
    if rank:
        return Checkpoint(5, WORKERS, {}, {}, shard=shard)
    return Checkpoint(5, WORKERS, {"last": {"w": torch.ones(2)}}, {"seconds": 1.0}, shard=shard)


def write(folder: Path) -> Path:
    sums: Sums = {}
    for rank in range(WORKERS):
        sums |= write_shard(folder, part(rank), rank)
    return write_checkpoint(folder, part(0), sums)


def test_all_shards_are_read_back_as_one_and_apart_from_the_weights(tmp_path: Path) -> None:
    found = read_checkpoint(write(tmp_path))
    assert set(found.weights) == {"last"}
    assert set(found.shard) == {f"{rank}/{name}" for rank in range(WORKERS) for name in "wn"}
    assert len(found.shard) == 2 * WORKERS
    assert torch.equal(found.shard["2/w"], torch.full((2, 3), 2.0))
    assert found.shard["1/n"].item() == 1
    assert not list(tmp_path.glob(".*")), "nothing is left waiting"


def test_a_torn_shard_makes_the_checkpoint_a_torn_one(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert find_fault(path) is None
    shard = path / "shard_00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert find_fault(path) == "shard_00001.safetensors differs from its checksum"
    shard.unlink()
    assert find_fault(path) == "shard_00001.safetensors is missing"


def test_shards_of_an_attempt_that_was_killed_are_not_taken(tmp_path: Path) -> None:
    write_shard(tmp_path, part(2), 2)  # and then the job died; fewer workers come back
    sums = write_shard(tmp_path, part(0), 0)
    found = read_checkpoint(write_checkpoint(tmp_path, part(0), sums))
    assert set(found.shard) == {"0/w", "0/n"}
    assert latest_checkpoint(tmp_path) is not None
