"""A pool on the disk: appended, whole or recognised as not, swept of what no checkpoint names."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raykd.artifacts import pool_files as module
from raykd.artifacts.pool_files import PoolFiles, finish_pool, open_pool, sweep_parts, write_part
from raykd.data import parquet
from raykd.data.image_pool import PoolPart
from raykd.errors import CorruptError, UsageError
from raykd.files import sha256_of, write_json
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
    back = list(PoolFiles(run, pool_files(run.checkpoints / "step_0000010")).parts())
    for one, other in zip(parts, back, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            if mine is None or theirs is None:
                assert mine is theirs
            else:
                assert torch.equal(mine, theirs)
    assert len(list(PoolFiles(run, pool_files(run.checkpoints / "step_0000005")).parts())) == 1, "what counted then"


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
        list(PoolFiles(run, pool).numbers())


def test_a_finished_pool_says_what_it_is_and_an_unfinished_one_that_it_is_not(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    report(run, 5, {}, part(0, 8))
    with pytest.raises(UsageError, match="has not finished its images"):
        open_pool(run)
    finish_pool(run, run.checkpoints / "step_0000005", {"teacher_sha256": "abc", "seed": 3})
    files = open_pool(run)
    assert files.manifest["teacher_sha256"] == "abc"
    assert [len(each.labels) for each in files.parts()] == [8]


def test_only_what_is_wanted_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, first, second = RunDirectory(tmp_path), part(0, 1500, views=2), part(1500, 8)
    saved = PoolFiles(run, report(run, 10, report(run, 5, {}, first), second))
    assert torch.cat(list(saved.numbers())).tolist() == list(range(1508))
    hashed: list[Path] = []
    monkeypatch.setattr(module, "sha256_of", hashed.append)
    groups: list[int] = []
    read = pq.ParquetFile.read_row_group

    def noted(file: Any, group: int, columns: list[str], **options: Any) -> Any:
        groups.extend([group] if "image" in columns else [])
        return read(file, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    (found,) = saved.parts(torch.tensor([7, 3]), view_logits=False)
    assert found.numbers.tolist() == [3, 7]
    assert torch.equal(found.pixels, first.pixels[[3, 7]])
    assert torch.equal(found.labels, first.labels[[3, 7]])
    assert found.view_logits is None
    assert (groups, hashed) == ([0], []), "one row group of three, and no file is hashed twice"


@pytest.mark.parametrize(
    ("metadata", "columns", "says"),
    [
        ({"shape": "[6, 6, 4]"}, {}, r"value of 108 bytes, and \[6, 6, 4\] uint8 take 144"),
        ({}, {"image": pa.array([b"", b""], pa.large_binary())}, "value of 0 bytes"),
        ({"shape": "[-6, -6, 3]"}, {}, "3 whole numbers belong there"),
        ({"shape": "[1e9]"}, {}, "3 whole numbers belong there"),
        ({"shape": "{"}, {}, "cannot be read"),
        ({"views": "[2, 4]"}, {}, "cannot be read"),
        ({}, {"label": pa.array([0, 4])}, "label 4, and the run has 4 classes"),
        ({}, {"label": pa.array([0, -1])}, "it has label -1"),
        ({}, {"label": pa.array([0.5, 1.0])}, "labels are double"),
        ({}, {"number": pa.array([0, None], pa.int64())}, "numbers are int64 with 1 gaps"),
    ],
)
def test_a_file_of_somebody_else_is_named(
    tmp_path: Path, metadata: dict[str, str], columns: dict[str, pa.Array], says: str
) -> None:
    """Its sum is right, and its content is not what a pool has."""
    run = RunDirectory(tmp_path)
    pool = report(run, 5, {}, part(0, 2))
    (file,) = run.pool.iterdir()
    table = pq.read_table(file)
    found = {name: columns.get(name, table[name].combine_chunks()) for name in table.column_names}
    parquet.write_file(file, found, {**parquet.read_metadata(file), **metadata})
    sums = {name: {"sha256": sha256_of(file)} for name in pool}
    with pytest.raises(CorruptError, match=rf"images-0000005-00000\.parquet.*{says}"):
        list(PoolFiles(run, sums, classes=4).parts())


@pytest.mark.parametrize("name", ["../../x.parquet", "/etc/passwd", "..", "", "a/b"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    run = RunDirectory(tmp_path)
    run.pool.mkdir()
    write_json(run.pool / "manifest.json", {"teacher_sha256": None, "files": {name: {"sha256": "0"}}})
    with pytest.raises(CorruptError, match=r"pool/manifest\.json is damaged .*no name of a file"):
        open_pool(run)


def test_images_that_a_search_removed_are_not_called_damaged(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "made-s0")
    run.path.mkdir()
    run.write_status(state="finished", result={}, images_removed="by the search that it is a trial of")
    with pytest.raises(UsageError, match="removed by the search"):
        open_pool(run)
    run.write_status(images_removed="")
    with pytest.raises(CorruptError, match="missing, though the run is finished"):
        open_pool(run)
