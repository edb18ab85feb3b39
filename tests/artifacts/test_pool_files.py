"""A pool on the disk: appended, whole or recognised as not, swept of what no checkpoint names."""

from pathlib import Path

import pytest
import torch

from raykd.artifacts.pool_files import finish_pool, open_pool, read_parts, sweep_parts, write_part
from raykd.data.image_pool import PoolPart
from raykd.errors import CorruptError, UsageError
from raykd.store.checkpoint import Checkpoint, Sums, pool_files, write_checkpoint
from raykd.store.run_directory import RunDirectory


def part(first: int, count: int, *, views: int = 0) -> PoolPart:
    generator = torch.Generator().manual_seed(first)
    pixels = torch.randint(256, (count, 3, 6, 6), generator=generator).to(torch.uint8)
    labels = torch.randint(4, (count,), generator=generator)
    logits = torch.randn(count, views, 4, generator=generator).half() if views else None
    return PoolPart(pixels, labels, torch.arange(first, first + count), logits)


def report(run: RunDirectory, step: int, before: Sums, images: PoolPart) -> Sums:
    checkpoint = Checkpoint(step, 1, {}, {}, images=images)
    pool = {**before, **write_part(run, checkpoint, 0)}
    write_checkpoint(run.checkpoints, checkpoint, pool=pool)
    return pool


@pytest.mark.parametrize("views", [0, 2])
def test_parts_come_back_as_they_were(tmp_path: Path, views: int) -> None:
    run, parts = RunDirectory(tmp_path), [part(0, 8, views=views), part(8, 4, views=views)]
    pool = report(run, 5, {}, parts[0])
    written = {path: path.stat().st_mtime_ns for path in run.pool.iterdir()}
    report(run, 10, pool, parts[1])
    assert {path: path.stat().st_mtime_ns for path in written} == written, "what is there is not written again"
    back = list(read_parts(tmp_path, pool_files(run.checkpoints / "step_0000010")))
    for one, other in zip(parts, back, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert (mine is None and theirs is None) or torch.equal(mine, theirs)
    assert len(list(read_parts(tmp_path, pool_files(run.checkpoints / "step_0000005")))) == 1, "what counted then"


def test_files_of_no_checkpoint_are_swept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    report(run, 5, {}, part(0, 8))
    write_part(run, Checkpoint(10, 1, {}, {}, images=part(8, 8)), 0)
    sweep_parts(run, run.checkpoints / "step_0000005")
    assert [path.name for path in run.pool.iterdir()] == ["images-0000005-00000.parquet"]
    sweep_parts(run, None)
    assert not list(run.pool.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    run = RunDirectory(tmp_path)
    pool = report(run, 5, {}, part(0, 64))
    (file,) = run.pool.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes(content) if damage == "flipped" else bytes(content[:-20]))
    with pytest.raises(CorruptError, match=r"images-0000005-00000\.parquet.*(missing|checksum)"):
        list(read_parts(tmp_path, pool))


def test_a_finished_pool_says_what_it_is_and_an_unfinished_one_that_it_is_not(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    report(run, 5, {}, part(0, 8))
    with pytest.raises(UsageError, match="has not finished its images"):
        open_pool(run)
    finish_pool(run, run.checkpoints / "step_0000005", {"teacher_sha256": "abc", "seed": 3})
    files = open_pool(run)
    assert files.manifest["teacher_sha256"] == "abc"
    assert [len(each.labels) for each in files.parts()] == [8]
