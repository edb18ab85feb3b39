"""Sets are written shard by shard, resized where that is asked; and what converting refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import datasets

from raykd.data import parquet
from raykd.data.convert import convert
from raykd.data.datasets import DATASETS, data_spec, load_images
from raykd.data.sources import SOURCES
from raykd.errors import SetupError, UsageError
from tests.data.test_image_files import every_class, write_folders
from tests.data.test_sources import check, draw, write_celeba, write_idx


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_missing_source_files_say_what_is_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(name, tmp_path, tmp_path / "out")
    assert SOURCES[name].expects in str(caught.value)
    assert ("--download" in str(caught.value)) == SOURCES[name].downloads
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnits"}, "unknown data source 'mnits'; did you mean 'mnist'"),
        ({"splits": ("valid",)}, "unknown split 'valid'"),
        ({"name": "imagenet", "download": True}, "imagenet cannot be downloaded"),
        ({"source_dir": None}, "mnist needs --source DIR .* or --download"),
        ({"attribute": "Male"}, "attribute='Male' is for celeba only"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"name": "mnist", "source_dir": tmp_path, "out_dir": tmp_path / "out"}
    with pytest.raises(UsageError, match=message):
        convert(**(good | arguments))


def test_an_existing_set_is_not_overwritten(tmp_path: Path) -> None:
    write_idx(tmp_path / "source", draw(28, 1), pack=True)
    convert("mnist", tmp_path / "source", tmp_path / "out", splits=("test",))
    with pytest.raises(UsageError, match="holds test-.* already"):
        convert("mnist", tmp_path / "source", tmp_path / "out")
    assert convert("mnist", tmp_path / "source", tmp_path / "out", splits=("train",)).counts == {"train": 7}


def test_an_image_that_the_lists_name_but_the_folder_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_celeba(tmp_path, draw(12, 3, classes=2), monkeypatch)
    (tmp_path / "celeba" / "img_align_celeba" / "train3.png").unlink()
    with pytest.raises(UsageError, match=r"train3.png.* cannot be read"):
        convert("celeba", tmp_path, tmp_path / "out")
    assert list((tmp_path / "out" / "celeba").iterdir()) == []


def test_splits_of_different_classes_are_refused(tmp_path: Path) -> None:
    truth = every_class(16, 3)
    write_folders(tmp_path / "in", {"train": truth["train"]}, ["rose", "tulip"])
    write_folders(tmp_path / "in", {"test": truth["test"]}, ["rose", "lily"])
    with pytest.raises(UsageError, match=r"different classes; only one has \['lily', 'tulip'\]"):
        convert("imagefolder", tmp_path / "in", tmp_path / "out")


def test_downloads_happen_only_on_demand_and_their_failure_is_a_setup_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usps(root: Path, train: bool, download: bool) -> None:
        if download:
            asked.append(root)
            raise OSError("no route to host")
        raise FileNotFoundError(root)

    monkeypatch.setattr(datasets, "USPS", usps)
    with pytest.raises(UsageError, match="usps.bz2"):
        convert("usps", tmp_path, tmp_path / "out")
    assert asked == []
    with pytest.raises(SetupError, match="could not be downloaded: no route to host"):
        convert("usps", None, tmp_path / "out", download=True)
    assert asked[0].parent == tmp_path / "out"
    assert list((tmp_path / "out").iterdir()) == []


def test_every_source_of_a_fixed_set_is_a_known_data_set() -> None:
    assert set(SOURCES) - {"imagefolder"} <= set(DATASETS)


def test_big_sets_are_written_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = draw(28, 1)
    write_idx(tmp_path / "source", truth, pack=True)
    original = parquet.write

    def in_small_shards(folder: Path, split: str, records: Any, metadata: Any) -> int:
        return original(folder, split, records, metadata, shard_bytes=2 * 28 * 28)

    monkeypatch.setattr(parquet, "write", in_small_shards)
    folder = convert("mnist", tmp_path / "source", tmp_path / "out").folder
    assert len(parquet.find_files(folder, "train")) == 4
    check(tmp_path / "out", "mnist", truth, 28)


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_images_can_be_resized_once_and_for_all(tmp_path: Path, kind: str) -> None:
    source, name = tmp_path / "source", "mnist" if kind == "arrays" else "imagefolder"
    if kind == "arrays":
        write_idx(source, draw(28, 1), pack=True)
    else:
        write_folders(source, every_class(28, 3), ["rose", "tulip"])
    whole = convert(name, source, tmp_path / "whole")
    small = convert(name, source, tmp_path / "small", size=8)
    assert small.name == f"{whole.name}-8"
    header = parquet.read_header(parquet.find_files(small.folder, "train")[0])
    assert (header.shape[:2], header.raw) == ((8, 8), True)
    spec = replace(data_spec(whole.name, data_root=tmp_path / "whole"), size=8)
    for split in ("train", "test"):
        expected = load_images(whole.name, split, spec, tmp_path / "whole")
        found = load_images(small.name, split, spec, tmp_path / "small")
        assert torch.equal(found.pixels, expected.pixels)
        assert torch.equal(found.labels, expected.labels)
