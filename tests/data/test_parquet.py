import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raykd.data import parquet
from raykd.errors import CorruptError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, 20).tolist()


def metadata(encoding: str = parquet.RAW, **more: str) -> dict[str, str]:
    return {
        "name": "made", "split": "train", "count": "20", "shape": json.dumps([6, 5, 3]),
        "encoding": encoding, "classes": json.dumps(["a", "b", "c", "d"]), **more,
    }  # fmt: skip


def encoded(image_format: str) -> list[bytes]:
    files = []
    for pixels in PIXELS:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, image_format, lossless=True)
        files.append(file.getvalue())
    return files


def write(folder: Path, images: list[bytes], encoding: str = parquet.RAW, shard: int = 600) -> int:
    records = zip(images, LABELS, strict=True)
    return parquet.write(folder, "train", records, metadata(encoding), shard_bytes=shard)


def read_all(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(parquet.read(parquet.find_files(folder, "train"), lambda pixels: pixels))
    return torch.cat([pixels for pixels, _ in parts]), torch.cat([labels for _, labels in parts])


@pytest.mark.parametrize("encoding", ["raw", "PNG", "WebP"])
def test_what_is_written_is_read_back_in_order(tmp_path: Path, encoding: str) -> None:
    images = [pixels.tobytes() for pixels in PIXELS] if encoding == "raw" else encoded(encoding)
    assert write(tmp_path, images, encoding) == 20
    files = parquet.find_files(tmp_path, "train")
    assert len(files) > 2
    assert [file.name for file in files] == sorted(path.name for path in tmp_path.iterdir())
    pixels, labels = read_all(tmp_path)
    assert torch.equal(pixels, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert labels.tolist() == LABELS


def test_shards_stay_below_their_limit(tmp_path: Path) -> None:
    images = [pixels.tobytes() for pixels in PIXELS]  # 90 bytes each
    write(tmp_path, images, shard=900)
    assert len(parquet.find_files(tmp_path, "train")) == 2
    write(tmp_path / "one", images, shard=1800)
    assert len(parquet.find_files(tmp_path / "one", "train")) == 1


def test_header_says_what_the_metadata_says(tmp_path: Path) -> None:
    constants = {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"}
    parquet.write(tmp_path, "train", [(bytes(90), 1)], metadata(**constants))
    header = parquet.read_header(parquet.find_files(tmp_path, "train")[0])
    assert header.shape == (6, 5, 3)
    assert header.count == 20
    assert header.raw
    assert header.classes == ("a", "b", "c", "d")
    assert (header.mean, header.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_failing_source_leaves_no_file_behind(tmp_path: Path) -> None:
    def records() -> Iterator[tuple[bytes, int]]:
        yield from [(bytes(90), 0)] * 15
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        parquet.write(tmp_path, "train", records(), metadata(), shard_bytes=200)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_of_a_split_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, [pixels.tobytes() for pixels in PIXELS])
    gone = parquet.find_files(tmp_path, "train")[1]
    gone.unlink()
    with pytest.raises(CorruptError, match=f"missing: .*{gone.name}"):
        parquet.find_files(tmp_path, "train")


def test_a_split_is_not_mistaken_for_one_that_begins_alike(tmp_path: Path) -> None:
    parquet.write(tmp_path, "train", [(bytes(90), 0)], metadata())
    parquet.write(tmp_path, "train-more", [(bytes(90), 0)], metadata())
    assert len(parquet.find_files(tmp_path, "train")) == 1
    assert parquet.find_splits(tmp_path) == ["train", "train-more"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "not parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path, encoded("PNG"), "PNG", shard=10**6)
    file = parquet.find_files(tmp_path, "train")[0]
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[4 : len(data) // 2] = bytes(255 - byte for byte in data[4 : len(data) // 2])
    else:
        data = bytearray(b"hello")
    file.write_bytes(data)
    with pytest.raises(CorruptError, match=file.name):
        read_all(tmp_path)


def test_images_that_cannot_be_decoded_name_their_file(tmp_path: Path) -> None:
    images = encoded("PNG")
    images[7] = images[7][:40]
    write(tmp_path, images, "PNG", shard=10**6)
    with pytest.raises(CorruptError, match="train-00000-of-00001.parquet: image 7 is damaged"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [((bytes(89), 0), "cannot be read"), ((bytes(90), 4), "beyond the 4 classes")],
)
def test_rows_that_contradict_the_metadata_are_refused(tmp_path: Path, record: tuple[bytes, int], message: str) -> None:
    parquet.write(tmp_path, "train", [record], metadata())
    with pytest.raises(CorruptError, match=message):
        read_all(tmp_path)


def test_a_file_without_the_columns_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train-00000-of-00001.parquet"
    schema = pa.schema([("pixels", pa.binary())], metadata=metadata())
    pq.write_table(pa.table([[bytes(90)]], schema=schema), file)
    with pytest.raises(CorruptError, match=file.name):
        read_all(tmp_path)


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    parquet.write(tmp_path, "train", [(bytes(90), 0)], {"name": "made"})
    with pytest.raises(CorruptError, match="metadata is missing or wrong.*shape"):
        read_all(tmp_path)


def test_a_pipe_in_the_place_of_a_shard_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(CorruptError, match="is no regular file, and a file belongs there"):
        parquet.read_metadata(tmp_path / "train-00000-of-00001.parquet")
