"""Shards written by several processes: killed, continued, damaged, and the same bytes in the end."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raykd.data import parquet
from raykd.data.datasets import DATASETS
from raykd.data.imagenet import find_imagenet, sharded_splits
from raykd.data.imagenet_labels import all_wnids
from raykd.data.sharded import DAMAGED, ShardedSet, write_sharded
from raykd.errors import CorruptError, InProgress, SetupError
from raykd.files import locked
from tests import made_imagenet

LABELS, PER_CLASS = range(4), 6
WNIDS = all_wnids()[: len(LABELS)]
SHARD = 4000  # bytes: some eight shards


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made_imagenet.write_folders(tmp_path / "source", LABELS, PER_CLASS, 24)
    return tmp_path / "source"


def write(source: Path, folder: Path, *, workers: int = 1, skip_damaged: bool = False) -> ShardedSet:
    splits = sharded_splits(find_imagenet(source, WNIDS), "made", DATASETS["imagenet"])
    return write_sharded(folder, source, splits, workers=workers, skip_damaged=skip_damaged, shard_bytes=SHARD)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def images(folder: Path, split: str) -> list[bytes]:
    return [image for file in parquet.find_files(folder, split) for image in pq.read_table(file)["image"].to_pylist()]


def staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.converting")


def test_several_processes_write_what_one_writes(source: Path, tmp_path: Path) -> None:
    made = write(source, tmp_path / "one")
    write(source, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(parquet.find_files(tmp_path / "one", "train")) > 3
    assert made.counts == {"train": 24, "test": 4}
    assert not staging(tmp_path / "one").exists()


WRITER = """
import sys, time
from pathlib import Path
from raykd.data import parquet
from raykd.data.datasets import DATASETS
from raykd.data.imagenet import find_imagenet, sharded_splits
from raykd.data.sharded import write_sharded

if __name__ == "__main__":
    source, folder, wnids, workers, shard = sys.argv[1:]
    own = parquet.write_file
    def slowly(path, *args, **keywords):
        own(path, *args, **keywords)
        print("writing", flush=True)
        time.sleep(0.05)
    parquet.write_file = slowly
    splits = sharded_splits(find_imagenet(Path(source), wnids.split(",")), "made", DATASETS["imagenet"])
    write_sharded(Path(folder), Path(source), splits, workers=int(workers), skip_damaged=False, shard_bytes=int(shard))
"""


def start(source: Path, folder: Path, script: Path, workers: int) -> subprocess.Popen[str]:
    script.write_text(WRITER)
    arguments = [str(source), str(folder), ",".join(WNIDS), str(workers), str(SHARD)]
    return subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)


def test_one_that_was_killed_is_gone_on_with_byte_for_byte(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "whole")
    with start(source, tmp_path / "killed", tmp_path / "writer.py", 1) as process:
        assert process.stdout is not None
        for _ in range(4):  # three are finished, the fourth is half-way
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed").exists()
    records = sorted((staging(tmp_path / "killed") / "records").iterdir())
    assert len(records) == 3
    shards = {path: path.stat().st_mtime_ns for path in (staging(tmp_path / "killed") / "killed").glob("train*")}
    write(source, tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    kept = [path for path, written in shards.items() if (tmp_path / "killed" / path.name).stat().st_mtime_ns == written]
    assert {path.stem for path in kept} >= {path.stem for path in records}


@pytest.mark.endurance
@pytest.mark.parametrize("pause", [0.05 * k for k in range(1, 12)])
def test_one_of_several_processes_killed_at_any_time_is_gone_on_with(
    source: Path, tmp_path: Path, pause: float
) -> None:
    write(source, tmp_path / "whole")
    with start(source, tmp_path / "killed", tmp_path / "writer.py", 2) as process:
        wait_for(lambda: list(staging(tmp_path / "killed").glob("records/*.json")))
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
    if not (tmp_path / "killed").exists():
        write(source, tmp_path / "killed", workers=2)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.endurance
def test_processes_end_with_the_one_that_started_them(source: Path, tmp_path: Path) -> None:
    with start(source, tmp_path / "killed", tmp_path / "writer.py", 2) as process:
        wait_for(lambda: list(staging(tmp_path / "killed").glob("records/*.json")))
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert children
        process.send_signal(signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in children))


def wait_for(happens: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < until, "it has not happened"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def half_done(source: Path, tmp_path: Path) -> Path:
    """A set that a damaged image keeps from being finished."""
    victim = source / "train" / WNIDS[1] / f"{WNIDS[1]}_1.JPEG"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    (source / "train" / WNIDS[2] / f"{WNIDS[2]}_1.JPEG").write_bytes(b"")
    with pytest.raises(CorruptError):
        write(source, tmp_path / "set")
    return tmp_path / "set"


def test_damaged_images_are_all_named_and_counted(source: Path, half_done: Path) -> None:
    with pytest.raises(CorruptError) as told:
        write(source, half_done)
    lines = str(told.value).splitlines()
    assert lines[0] == "2 images cannot be used:"
    assert {line.split(" is damaged")[0].strip() for line in lines[1:3]} == {
        str(source / "train" / wnid / f"{wnid}_1.JPEG") for wnid in WNIDS[1:3]
    }
    assert "it is empty" in str(told.value)
    assert lines[3].endswith("or leave them out by --skip-damaged")


def test_damaged_images_are_left_out_and_listed_if_so_wished(source: Path, half_done: Path) -> None:
    made = write(source, half_done, skip_damaged=True)
    assert made.counts == {"train": 22, "test": 4}
    listed = json.loads((half_done / DAMAGED).read_text())["images"]
    assert len(listed) == 2
    assert {one["split"] for one in listed} == {"train"}
    headers = [parquet.read_header(file) for file in parquet.find_files(half_done, "train")]
    assert {header.count for header in headers} == {22}
    assert len(images(half_done, "train")) == 22


def test_counts_that_are_written_again_stay_written(
    source: Path, half_done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shards bear the count of their split: leaving one out is done by all processes and not undone."""
    write(source, tmp_path / "undisturbed", skip_damaged=True)
    own, calls = parquet.write_file, []

    def ending(path: Path, *arguments: Any, **keywords: Any) -> None:
        calls.append(path)
        if len(calls) > 5:
            raise KeyboardInterrupt
        own(path, *arguments, **keywords)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(parquet, "write_file", ending)
        write(source, half_done, skip_damaged=True)
    folder = staging(half_done) / half_done.name
    files = {path.name: path.stat().st_mtime_ns for path in folder.glob("train-*") if counted(path) == 22}
    whole = {path.name for path in staging(half_done).glob("records/*") if not json.loads(path.read_text())["damaged"]}
    files = {name: written for name, written in files.items() if name.replace("parquet", "json") in whole}
    assert len(files) >= 2
    assert write(source, half_done, workers=2, skip_damaged=True).counts == {"train": 22, "test": 4}
    assert {name: (half_done / name).stat().st_mtime_ns for name in files} == files
    assert content(half_done) == content(tmp_path / "undisturbed")


def counted(file: Path) -> int:
    return parquet.read_header(file).count


def test_images_that_were_mended_count_again(source: Path, half_done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("raykd.data.sharded.rmtree", interrupted)
        patched.setattr(Path, "rename", interrupted)
        write(source, half_done, skip_damaged=True)
    for wnid in WNIDS[1:3]:
        label = all_wnids().index(wnid)
        (source / "train" / wnid / f"{wnid}_1.JPEG").write_bytes(made_imagenet.draw(label, 0, 24))
    write(source, half_done)
    write(source, half_done.with_name("undisturbed"))
    assert content(half_done) == content(half_done.with_name("undisturbed"))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_class_of_which_all_images_are_damaged_is_not_left_out(source: Path, tmp_path: Path) -> None:
    for path in (source / "train" / WNIDS[2]).iterdir():
        path.write_bytes(b"")
    with pytest.raises(CorruptError, match=r"train has no image that can be decoded of 1 classes: great white shark"):
        write(source, tmp_path / "set", skip_damaged=True)
    assert not (tmp_path / "set").exists()


def test_a_mended_image_needs_its_shard_alone(source: Path, half_done: Path) -> None:
    times = {path.name: path.stat().st_mtime_ns for path in (staging(half_done) / "set").glob("*.parquet")}
    for wnid in WNIDS[1:3]:
        label = all_wnids().index(wnid)
        (source / "train" / wnid / f"{wnid}_1.JPEG").write_bytes(made_imagenet.draw(label, 0, 24))
    assert write(source, half_done).counts == {"train": 24, "test": 4}
    again = {path.name for path in half_done.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert 1 <= len(again) <= 2


def test_a_finished_shard_that_was_damaged_since_is_made_again(source: Path, half_done: Path) -> None:
    path = next((staging(half_done) / "set").glob("test*.parquet"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + bytes(40))
    write(source, half_done, skip_damaged=True)
    assert (half_done / path.name).read_bytes() == whole


def test_another_process_is_not_disturbed(source: Path, half_done: Path) -> None:
    with (
        locked(staging(half_done) / "lock", wait=False),
        pytest.raises(InProgress, match="another process is writing"),
    ):
        write(source, half_done)


def die(*_: object) -> None:
    os._exit(9)


@pytest.mark.endurance
def test_a_process_that_is_killed_is_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.data.sharded._make", die)
    with pytest.raises(SetupError, match="was killed, perhaps for want of memory: run the same command with fewer"):
        write(source, tmp_path / "set", workers=2)


def test_every_kind_of_image_is_kept_byte_for_byte(source: Path, tmp_path: Path) -> None:
    """CMYK, grey, turned by its EXIF data, a PNG that is called .JPEG, a single pixel and a long strip."""
    levels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    rgb = Image.fromarray(levels)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "grey": (rgb.convert("L"), "JPEG", {}),
        "turned": (rgb, "JPEG", {"exif": exif}),
        "png": (rgb, "PNG", {}),
        "pixel": (rgb.resize((1, 1)), "JPEG", {}),
        "strip": (rgb.resize((400, 2)), "JPEG", {}),
    }
    truth = {}
    for name, (image, kind, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        truth[name] = file.getvalue()
        (source / "train" / WNIDS[0] / f"{name}.JPEG").write_bytes(file.getvalue())
    made = write(source, tmp_path / "set")
    assert made.counts["train"] == 24 + len(kinds)
    assert set(truth.values()) <= set(images(tmp_path / "set", "train"))
    assert made.remarks["another format than JPEG, kept as it is"][0] == 3  # the made set has two
