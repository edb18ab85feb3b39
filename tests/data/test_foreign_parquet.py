"""Parquet files as Hugging Face and others write them, converted: columns, splits, class names, and what is refused."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raykd.data import foreign_parquet
from raykd.data import split as split_module
from raykd.data.convert import Converted, convert
from raykd.data.datasets import data_spec, find_split, load_images
from raykd.errors import CorruptError, ForeignFormat, UsageError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["rose", "tulip", "aster"]


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(
    file: Path,
    labels: Sequence[Any] = (0, 1, 2),
    *,
    image: str = "image",
    label: str = "label",
    struct: bool = True,
    features: dict[str, Any] | None = None,
    images: Sequence[bytes | None] | None = None,
    **options: Any,
) -> None:
    """Write a file of images whose levels of grey are 0, 1, 2 ..., unless they are given."""
    files = images if images is not None else [png(row) for row in range(len(labels))]
    column = pa.array([{"bytes": one, "path": "x.png"} for one in files], STRUCT) if struct else pa.array(files)
    table = pa.table({image: column, label: list(labels)})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, **options)


def described(image: str = "image", label: str = "label") -> dict[str, Any]:
    return {image: {"_type": "Image"}, label: {"names": NAMES, "_type": "ClassLabel"}}


def converted(source: Path, **options: Any) -> Converted:
    return convert("parquet", source, source.parent / "out", **options)


def train_of(source: Path, name: str) -> tuple[list[int], list[int]]:
    """Levels of grey and labels of what was converted."""
    root = source.parent / "out"
    images = load_images(name, "train", data_spec(name, data_root=root), root)
    return images.pixels[:, 0, 0, 0].tolist(), images.labels.tolist()


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label"), ("picture", "kind")])
def test_columns_are_told_by_the_metadata(tmp_path: Path, image: str, label: str, struct: bool) -> None:
    source = tmp_path / "flowers"
    for split in ("train", "test"):
        features = described(image, label)
        file = source / f"{split}-00000-of-00001.parquet"
        write(file, image=image, label=label, struct=struct, features=features)
    assert converted(source)._replace(folder=tmp_path) == ("flowers", tmp_path, {"train": 3, "test": 3})
    assert train_of(source, "flowers") == ([0, 1, 2], [0, 1, 2])
    spec = data_spec("flowers", data_root=tmp_path / "out")
    assert (spec.class_names, spec.size, spec.channels) == (tuple(NAMES), 8, 3)


def test_without_metadata_columns_are_told_by_type_and_name(tmp_path: Path) -> None:
    source = tmp_path / "flowers"
    write(source / "data" / "train.parquet", [0, 1], image="photo", label="labels")
    write(source / "data" / "val.parquet", [2, 4], image="photo", label="labels")
    converted(source)
    assert data_spec("flowers", data_root=tmp_path / "out").class_names == ("0", "1", "2", "3", "4")


def test_of_several_columns_of_labels_the_fine_one_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "flowers"
    features = {"coarse_label": {"names": ["a", "b"], "_type": "ClassLabel"}, **described(label="fine_label")}
    table = {"image": pa.array([png(0), png(1)]), "coarse_label": [1, 0], "fine_label": [2, 1]}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    source.mkdir()
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), source / "train.parquet")
    converted(source)
    assert train_of(source, "flowers")[1] == [2, 1]
    assert "labels are column 'fine_label'; coarse_label is left out" in caplog.text


def test_shards_are_read_in_order_and_empty_ones_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "SAMPLED", 3)
    source = tmp_path / "flowers"
    source.mkdir()
    for shard, labels in enumerate(([], [0, 1, 2, 0, 1], [], [2, 2], [])):
        levels = [png(10 * shard + row) for row in range(len(labels))]
        file = source / f"train-{shard:05d}-of-00005.parquet"
        if labels:
            write(file, labels, images=levels, features=described(), row_group_size=2)
        else:
            pq.write_table(pa.table({"image": pa.nulls(0), "label": pa.nulls(0)}), file)
    assert converted(source).counts == {"train": 7}
    assert train_of(source, "flowers") == ([10, 11, 12, 13, 14, 30, 31], [0, 1, 2, 0, 1, 2, 2])
    unit = torch.tensor([10, 13, 31]) / 255  # every third
    assert data_spec("flowers", data_root=tmp_path / "out").mean[0] == pytest.approx(unit.mean().item(), abs=1e-4)


def test_splits_are_told_by_folders_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "flowers"
    for split in ("train", "validation", "extra"):
        write(source / "default" / split / "0000.parquet")
    assert converted(source).counts == {"train": 3, "test": 3}
    assert f"left out, of other splits: {source}/default/extra/0000.parquet" in caplog.text


def test_a_single_file_is_a_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "flowers.parquet")
    assert converted(tmp_path / "flowers.parquet")._replace(folder=tmp_path) == ("flowers", tmp_path, {"train": 3})
    assert "there is no split to test on: recipes on this set need data.test=false" in caplog.text
    write(tmp_path / "herbs" / "test-00000-of-00002.parquet")
    assert converted(tmp_path / "herbs" / "test-00000-of-00002.parquet", size=4)[0::2] == ("herbs-4", {"test": 3})
    assert find_split("herbs-4", "test", tmp_path / "herbs" / "out")


def test_files_of_several_sets_are_not_mixed(tmp_path: Path) -> None:
    source = tmp_path / "flowers"
    for config in ("garden", "meadow"):
        write(source / config / "train-00000-of-00001.parquet")
    with pytest.raises(UsageError, match="'train' lie in 2 folders, .*garden, .*meadow.*give one as --source"):
        converted(source)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path / "flowers" / "train-00001-of-00003.parquet")
    with pytest.raises(CorruptError, match="1 are there, of 3; number 0 is missing; download them again"):
        converted(tmp_path / "flowers")


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ([0, 1, None], "row 2 has label None"),
        ([0, -1, 0], "row 1 has label -1"),
        ([0.5, 1.0, 2.0], "row 0 has label 0.5"),
        ([0.0, 1.0, float("nan")], "row 2 has label nan"),
        (["rose", "tulip", "rose"], "row 0 has label 'rose'"),
        ([0, 1, 3], "row 2 has label 3; labels are numbers 0 to 2, of 3 classes"),
    ],
)
def test_labels_that_are_no_class_are_named_by_their_row(tmp_path: Path, labels: list[Any], shown: str) -> None:
    file = tmp_path / "flowers" / "train-00000-of-00001.parquet"
    write(file, labels, features=described())
    with pytest.raises(CorruptError, match=f"{file}: {shown}"):
        converted(tmp_path / "flowers")
    assert not (tmp_path / "out").exists()


def test_labels_that_are_whole_though_stored_as_floats_are_taken(tmp_path: Path) -> None:
    write(tmp_path / "flowers.parquet", [0.0, 2.0, 1.0])
    converted(tmp_path / "flowers.parquet")
    assert train_of(tmp_path / "flowers.parquet", "flowers")[1] == [0, 2, 1]


def test_labels_that_count_from_1_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "flowers.parquet", [1, 2, 3])
    converted(tmp_path / "flowers.parquet")
    assert "no image to train on has label 0, of 4 classes; labels count from 0" in caplog.text


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize(("image", "what"), [(png(0)[:40], "is damaged"), (None, "has no bytes in image")])
def test_damaged_images_are_named_by_their_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: bool, image: bytes | None, what: str
) -> None:
    monkeypatch.setattr(split_module, "SAMPLED", 10 if sampled else 2)
    file = tmp_path / "flowers" / "train-00000-of-00001.parquet"
    write(file, [0] * 10, images=[*(png(row) for row in range(7)), image, png(8), png(9)], row_group_size=4)
    with pytest.raises(CorruptError, match=f"{file}: row 7 {what}"):
        converted(tmp_path / "flowers")
    assert list(tmp_path.glob("out/*/*")) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"]}, r"no column of labels \(called 'label' or .*its columns: image \(binary\)"),
        ({"image": [b"x"], "number": [1]}, r"no column of labels .*number \(int64\)"),
        ({"label": [1], "text": ["x"]}, r"no column of images .*label \(int64\), text \(string\)"),
        ({"left": [b"x"], "right": [b"y"], "label": [1]}, "several columns of images.*rename"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "'train' have no rows"),
    ],
)
def test_files_that_are_no_set_of_images_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "flowers.parquet")
    with pytest.raises(UsageError, match=message):
        converted(tmp_path / "flowers.parquet")


def test_a_file_that_is_no_parquet_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "flowers.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(CorruptError, match="flowers.parquet cannot be read"):
        converted(tmp_path / "flowers.parquet")


def test_a_set_of_our_own_needs_no_converting(tmp_path: Path) -> None:
    write(tmp_path / "flowers.parquet")
    converted(tmp_path / "flowers.parquet")
    with pytest.raises(UsageError, match=f"is a file of this package already: set RAYKD_DATA to {tmp_path}/out"):
        convert("parquet", tmp_path / "out" / "flowers", tmp_path / "other")


@pytest.mark.parametrize("file", ["train-00000-of-00001.parquet", "data/train-00000-of-00001.parquet", "0000.parquet"])
@pytest.mark.parametrize("name", ["flowers", "cifar10", "my flowers"])
def test_a_foreign_set_in_the_data_root_is_named_with_the_command(tmp_path: Path, name: str, file: str) -> None:
    write(tmp_path / name / file)
    with pytest.raises(ForeignFormat, match="raykd data parquet --source ") as caught:
        load_images(name, "train", data_spec(name, data_root=tmp_path), tmp_path)
    assert f"'{tmp_path / name}" in str(caught.value) if " " in name else str(tmp_path / name) in str(caught.value)
    folder = (tmp_path / name / file).parent if file.startswith("train") else tmp_path / name
    assert foreign_parquet.find_splits(folder) == ["train"]
