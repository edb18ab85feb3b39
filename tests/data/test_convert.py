"""Every source, fed with small files made here: converted, loaded, compared pixel by pixel."""

import bz2
import gzip
import hashlib
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from raykd.data import parquet
from raykd.data.convert import convert
from raykd.data.datasets import data_spec, load_images
from raykd.errors import CorruptError, UsageError

Pixels = NDArray[np.uint8]
Truth = dict[str, tuple[Pixels, list[int]]]
"""Split -> (pixels (N, H, W, C), labels)."""


def draw(size: int, channels: int, classes: int = 10) -> Truth:
    rng = np.random.default_rng(size)
    shape = {"train": (7, size, size, channels), "test": (4, size, size, channels)}
    return {
        split: (
            rng.integers(0, 256, shape[split], dtype=np.uint8),
            rng.integers(0, classes, shape[split][0]).tolist(),
        )
        for split in ("train", "test")
    }


def check(out: Path, name: str, truth: Truth, size: int) -> None:
    spec = data_spec(name, data_root=out, size=size)
    for split, (pixels, labels) in truth.items():
        images = load_images(name, split, spec, out)
        assert images.labels.tolist() == labels
        assert torch.equal(images.pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2))


def write_idx(folder: Path, truth: Truth, pack: bool) -> None:
    folder.mkdir(parents=True)
    for split, stem in (("train", "train"), ("test", "t10k")):
        pixels, labels = truth[split]
        count, height, width, _ = pixels.shape
        contents = {
            f"{stem}-images-idx3-ubyte": struct.pack(">4i", 2051, count, height, width) + pixels.tobytes(),
            f"{stem}-labels-idx1-ubyte": struct.pack(">2i", 2049, count) + bytes(labels),
        }
        for name, data in contents.items():
            if pack:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("name", "folder", "pack"),
    [
        ("mnist", ".", True),
        ("mnist", "MNIST/raw", False),
        ("fashion-mnist", "FashionMNIST/raw", True),
    ],
)
def test_idx_files(tmp_path: Path, name: str, folder: str, pack: bool) -> None:
    truth = draw(28, 1)
    write_idx(tmp_path / "source" / "deep" / folder, truth, pack)
    converted = convert(name, tmp_path / "source" / "deep", tmp_path / "out")
    assert converted.counts == {"train": 7, "test": 4}
    assert converted.folder == tmp_path / "out" / name
    check(tmp_path / "out", name, truth, 28)


def test_a_cut_idx_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "source", draw(28, 1), pack=False)
    file = tmp_path / "source" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptError, match="train-images-idx3-ubyte is not a whole idx file"):
        convert("mnist", tmp_path / "source", tmp_path / "out")


def test_usps(tmp_path: Path) -> None:
    truth = draw(16, 1)
    for split, file in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        lines = []
        for image, label in zip(*truth[split], strict=True):
            # A little above the grid of 8 bits, since torchvision cuts off the fraction.
            values = (image.flatten() + 0.25) / 255 * 2 - 1
            numbered = (f"{index}:{value:.6f}" for index, value in enumerate(values, 1))
            lines.append(f"{label + 1} {' '.join(numbered)}\n")
        (tmp_path / file).write_bytes(bz2.compress("".join(lines).encode()))
    convert("usps", tmp_path, tmp_path / "out")
    check(tmp_path / "out", "usps", truth, 16)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root: Path, truth: Truth, fine: bool, patch: pytest.MonkeyPatch) -> Any:
    loader = datasets.CIFAR100 if fine else datasets.CIFAR10
    folder = root / loader.base_folder
    folder.mkdir()
    key, count = ("fine_labels", 100) if fine else ("labels", 10)
    names = [f"class {index}" for index in range(count)]
    files = {
        loader.meta["filename"]: {loader.meta["key"]: names},
        **{
            file: {
                "data": truth[split][0].transpose(0, 3, 1, 2).reshape(-1, 3072),
                key: truth[split][1],
            }
            for split, file in (("train", "made_train"), ("test", "made_test"))
        },
    }
    for file, content in files.items():
        (folder / file).write_bytes(pickle.dumps(content))
    patch.setattr(loader, "train_list", [["made_train", md5(folder / "made_train")]])
    patch.setattr(loader, "test_list", [["made_test", md5(folder / "made_test")]])
    meta_file = loader.meta["filename"]
    patch.setattr(loader, "meta", {**loader.meta, "md5": md5(folder / meta_file)})
    return names


@pytest.mark.parametrize("fine", [False, True])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fine: bool) -> None:
    name = "cifar100" if fine else "cifar10"
    truth = draw(32, 3, 100 if fine else 10)
    names = write_cifar(tmp_path, truth, fine, monkeypatch)
    folder = convert(name, tmp_path, tmp_path / "out").folder
    check(tmp_path / "out", name, truth, 32)
    header = parquet.read_header(parquet.find_files(folder, "train")[0])
    assert list(header.classes) == names


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat  # type: ignore[import-untyped]

    truth = draw(32, 3)
    split_list = {}
    for split, (pixels, labels) in truth.items():
        path = tmp_path / f"{split}_32x32.mat"
        # The files call the digit 0 "10".
        wrapped = np.array([[label or 10] for label in labels])
        savemat(path, {"X": pixels.transpose(1, 2, 3, 0), "y": wrapped})
        split_list[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    convert("svhn", tmp_path, tmp_path / "out")
    check(tmp_path / "out", "svhn", truth, 32)


def write_celeba(root: Path, truth: Truth, patch: pytest.MonkeyPatch) -> None:
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    rows = [
        (f"{split}{row}.png", pixels, label, code)
        for split, code in (("train", 0), ("test", 2))
        for row, (pixels, label) in enumerate(zip(*truth[split], strict=True))
    ]
    for file, pixels, _, _ in rows:
        Image.fromarray(pixels).save(folder / "img_align_celeba" / file)
    lists = {
        "list_eval_partition.txt": [f"{file} {code}" for file, _, _, code in rows],
        "identity_CelebA.txt": [f"{file} 1" for file, *_ in rows],
        "list_bbox_celeba.txt": ["n", "image x y w h", *(f"{file} 0 0 1 1" for file, *_ in rows)],
        "list_landmarks_align_celeba.txt": ["n", "a b", *(f"{file} 0 0" for file, *_ in rows)],
        "list_attr_celeba.txt": [
            "n",
            "Smiling Male",
            *(f"{file} {1 - 2 * label:2d} {2 * label - 1:2d}" for file, _, label, _ in rows),
        ],
    }
    for file, lines in lists.items():
        (folder / file).write_text("\n".join(lines) + "\n")
    patch.setattr(datasets.CelebA, "file_list", [("", md5(folder / file), file) for file in lists])


def test_celeba_has_the_two_classes_of_an_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = draw(12, 3, classes=2)
    write_celeba(tmp_path, truth, monkeypatch)
    folder = convert("celeba", tmp_path, tmp_path / "out").folder
    check(tmp_path / "out", "celeba", truth, 12)
    header = parquet.read_header(parquet.find_files(folder, "test")[0])
    assert header.classes == ("not Male", "Male")
    smiling = {s: (pixels, [1 - x for x in labels]) for s, (pixels, labels) in truth.items()}
    convert("celeba", tmp_path, tmp_path / "other", attribute="Smiling")
    check(tmp_path / "other", "celeba", smiling, 12)
    with pytest.raises(UsageError, match="unknown CelebA attribute 'Mael'; did you mean 'Male'"):
        convert("celeba", tmp_path, tmp_path / "third", attribute="Mael")


def write_folders(root: Path, truth: Truth, names: list[str], test_folder: str = "test") -> Truth:
    """Save images as root/split/class/row.png; return the truth in an image folder's order."""
    ordered: Truth = {}
    for split, (pixels, labels) in truth.items():
        order = sorted(range(len(labels)), key=lambda row, known=labels: (known[row], row))  # type: ignore[misc]
        for name in names:
            (root / (test_folder if split == "test" else split) / name).mkdir(parents=True)
        for row in order:
            folder = root / (test_folder if split == "test" else split) / names[labels[row]]
            Image.fromarray(pixels[row].squeeze()).save(folder / f"{row:03d}.png")
        ordered[split] = (pixels[order], [labels[row] for row in order])
    return ordered


def every_class(size: int, channels: int) -> Truth:
    """Pixels of two classes, so that no class folder is empty."""
    truth = draw(size, channels)
    return {s: (pixels, [row % 2 for row in range(len(pixels))]) for s, (pixels, _) in truth.items()}


def test_imagenet(tmp_path: Path) -> None:
    wnids = ["n01440764", "n01443537"]
    truth = write_folders(tmp_path / "source", every_class(16, 3), wnids, "val")
    synonyms = {wnids[0]: ("tench", "Tinca tinca"), wnids[1]: ("goldfish",)}
    torch.save((synonyms, []), tmp_path / "source" / "meta.bin")
    folder = convert("imagenet", tmp_path / "source", tmp_path / "out").folder
    check(tmp_path / "out", "imagenet", truth, 16)
    header = parquet.read_header(parquet.find_files(folder, "test")[0])
    assert header.classes == ("tench, Tinca tinca", "goldfish")


def test_places365(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = draw(16, 3, classes=2)
    lists = {"categories": ["/a/airfield 1", "/b/bus_station/indoor 0"]}
    for split, folder, prefix in (("train", "data_256_standard", "/a/"), ("test", "val_256", "")):
        pixels, labels = truth[split]
        (tmp_path / folder / prefix.strip("/")).mkdir(parents=True)
        for row, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / folder / prefix.strip("/") / f"{row:03d}.png")
        lists[split] = [f"{prefix}{row:03d}.png {label}" for row, label in enumerate(labels)]
    names = {"categories": "categories_places365", "train": "places365_train_standard", "test": "places365_val"}
    paths = {key: tmp_path / f"{name}.txt" for key, name in names.items()}
    for key, path in paths.items():
        path.write_text("\n".join(lists[key]) + "\n")
    own = datasets.Places365
    monkeypatch.setattr(own, "_CATEGORIES_META", (paths["categories"].name, md5(paths["categories"])))
    files = {"train-standard": paths["train"], "val": paths["test"]}
    monkeypatch.setattr(own, "_FILE_LIST_META", {split: (path.name, md5(path)) for split, path in files.items()})
    folder_made = convert("places365", tmp_path, tmp_path / "out").folder
    check(tmp_path / "out", "places365", truth, 16)
    assert parquet.read_header(parquet.find_files(folder_made, "test")[0]).classes == ("bus_station/indoor", "airfield")


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_folder_becomes_a_set_of_its_own(tmp_path: Path, channels: int) -> None:
    source = tmp_path / "flowers"
    truth = write_folders(source, every_class(16, channels), ["rose", "tulip"], "val")
    converted = convert("imagefolder", source, tmp_path / "out")
    assert converted.name == "flowers"
    check(tmp_path / "out", "flowers", truth, 16)
    spec = data_spec("flowers", data_root=tmp_path / "out")
    assert (spec.channels, spec.size, spec.class_names) == (channels, 16, ("rose", "tulip"))
    unit = truth["train"][0] / 255
    assert spec.mean == pytest.approx(unit.mean((0, 1, 2)), abs=1e-4)
    assert spec.std == pytest.approx(unit.std((0, 1, 2)), abs=1e-4)


def test_image_files_are_stored_byte_for_byte(tmp_path: Path) -> None:
    source = tmp_path / "flowers"
    write_folders(source, every_class(16, 3), ["rose", "tulip"])
    photo = source / "train" / "tulip" / "zz.jpg"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(photo)
    folder = convert("imagefolder", source, tmp_path / "out", set_name="garden").folder
    table = pq.read_table(parquet.find_files(folder, "train")[0])
    assert table["image"].to_pylist()[-1] == photo.read_bytes()
    spec = data_spec("garden", data_root=tmp_path / "out")
    assert (spec.size, spec.channels) == (224, 3)
    small = load_images("garden", "train", data_spec("cifar10"), tmp_path / "out")
    assert small.pixels.shape == (8, 3, 32, 32)
    assert small.pixels[-1, 0].float().mean() == pytest.approx(200, abs=3)


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
