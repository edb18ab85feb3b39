"""The table of sources of data sets: torchvision's loaders, idx files, image folders, and Parquet files of others."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from raykd.data import foreign_parquet, imagenet
from raykd.data.image_folder import open_image_folder
from raykd.data.split import Split, split_from_arrays, split_from_files
from raykd.errors import CorruptError, unknown

_DIGITS = tuple("0123456789")
# Names of the train and test split's files: images, labels.
_IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Source:
    """A reader of a set: ``open(folder, split, download)``, and the files that it ``expects`` in the folder.

    ``splits`` tells which there are, for a source that may lack one.
    """

    open: Callable[[Path, str, bool], Split]
    expects: str
    downloads: bool = True
    splits: Callable[[Path], Sequence[str]] | None = None


def open_celeba(root: Path, split: str, download: bool, attribute: str = "Male") -> Split:
    """Open CelebA as two classes by one of its 40 attributes (0 = absent, 1 = present)."""
    opened = datasets.CelebA(root, split=split, target_type="attr", download=download)
    names = [name for name in opened.attr_names if name]
    if attribute not in names:
        raise unknown("CelebA attribute", attribute, names)
    labels = opened.attr[:, names.index(attribute)].tolist()
    folder = root / "celeba" / "img_align_celeba"
    files = [(folder / name, label) for name, label in zip(opened.filename, labels, strict=True)]
    return split_from_files(files, (218, 178, 3), (f"not {attribute}", attribute))


def _open_idx(folder: str, loader: Callable[..., Any], root: Path, split: str, download: bool) -> Split:
    if download:
        loader(root, train=split == "train", download=True)
    folders = (root, root / "raw", root / folder / "raw")
    pixels, labels = (_read_idx(folders, name) for name in _IDX[split])
    return split_from_arrays(pixels[..., None], labels, loader.classes)  # type: ignore[attr-defined]


def _read_idx(folders: Sequence[Path], name: str) -> NDArray[np.uint8]:
    """Read bytes in LeCun's idx format: magic 0 0 8 ndim, big-endian int32 sizes, values."""
    candidates = [folder / (name + ending) for folder in folders for ending in ("", ".gz")]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"no {name} or {name}.gz in {', '.join(map(str, folders))}")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    dimensions = data[3] if data[:3] == b"\0\0\x08" else 0
    sizes = np.frombuffer(data, ">i4", dimensions, offset=4) if len(data) >= 4 + 4 * dimensions else ()
    start = 4 + 4 * dimensions
    if not dimensions or len(data) - start != int(np.prod(sizes, dtype=np.int64)):
        raise CorruptError(f"{path} is not a whole idx file of bytes; copy or download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)


def _open_usps(root: Path, split: str, download: bool) -> Split:
    opened = datasets.USPS(root, train=split == "train", download=download)
    return split_from_arrays(opened.data[..., None], opened.targets, _DIGITS)


def _open_cifar(loader: Callable[..., Any], root: Path, split: str, download: bool) -> Split:
    # These files are pickles: torchvision opens them only if their md5 sums are the published ones.
    opened = loader(root, train=split == "train", download=download)
    return split_from_arrays(opened.data, opened.targets, opened.classes)


def _open_svhn(root: Path, split: str, download: bool) -> Split:
    opened = datasets.SVHN(root, split=split, download=download)
    return split_from_arrays(opened.data.transpose(0, 2, 3, 1), opened.labels, _DIGITS)


def _open_places365(root: Path, split: str, download: bool) -> Split:
    variant = "val" if split == "test" else "train-standard"  # its own test split has no labels
    opened = datasets.Places365(root, split=variant, small=True, download=download)
    names = sorted(opened.class_to_idx, key=opened.class_to_idx.__getitem__)
    files = [(Path(path), int(label)) for path, label in opened.imgs]
    return split_from_files(files, (256, 256, 3), tuple(name.removeprefix("/")[2:] for name in names))


_IDX_FILES = "train-images-idx3-ubyte[.gz] and its three companions, there or in {}/raw/"
SOURCES: dict[str, Source] = {
    "mnist": Source(partial(_open_idx, "MNIST", datasets.MNIST), _IDX_FILES.format("MNIST")),
    "fashion-mnist": Source(
        partial(_open_idx, "FashionMNIST", datasets.FashionMNIST), _IDX_FILES.format("FashionMNIST")
    ),
    "usps": Source(_open_usps, "usps.bz2 and usps.t.bz2"),
    "cifar10": Source(partial(_open_cifar, datasets.CIFAR10), "cifar-10-batches-py/ (python version, unpacked)"),
    "cifar100": Source(partial(_open_cifar, datasets.CIFAR100), "cifar-100-python/ (python version, unpacked)"),
    "svhn": Source(_open_svhn, "train_32x32.mat and test_32x32.mat"),
    "celeba": Source(open_celeba, "celeba/ with img_align_celeba/ and its five list files"),
    "imagenet": Source(
        imagenet.open_split,
        imagenet.EXPECTS,
        downloads=False,
        splits=imagenet.find_splits,
    ),
    "places365": Source(
        _open_places365,
        "categories_places365.txt, the lists places365_train_standard.txt and places365_val.txt, and the images of 256 "
        "pixels in data_256_standard/ and val_256/",
    ),
    "imagefolder": Source(
        open_image_folder,
        "train/CLASS/*.jpg and test/CLASS/*.jpg (val and valid will do for test)",
        downloads=False,
    ),
    "parquet": Source(
        foreign_parquet.open_split,
        "a file, or a folder of files such as train-00000-of-00001.parquet and test-..., with a column of images and "
        "one of labels, as Hugging Face has them",
        downloads=False,
        splits=foreign_parquet.find_splits,
    ),
}
