"""Every source, fed with small files made here: converted, loaded, compared pixel by pixel."""

import bz2
import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
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
