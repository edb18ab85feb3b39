"""Sources of data sets: torchvision's loaders, idx files and image folders.

Each becomes a stream of records. Nothing is held in memory but what torchvision itself holds; sets
made of files are read one file at a time.
"""

import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from raykd.data.parquet import RAW, decode
from raykd.data.pixels import fit
from raykd.errors import CorruptError, UsageError, unknown
from raykd.spec import DataSpec

_FILES = "files of the source, byte for byte; sizes and modes may vary"
_RESIZED_AT_ONCE = 1024  # images held at a time
_SAMPLED_FILES = 1000  # files looked at for shape, mean and std
_DIGITS = tuple("0123456789")
# Names of the train and test split's files: images, labels.
_IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Split:
    """One split of a source; ``shape`` is (H, W, C), ``mean`` and ``std`` in units of [0, 1]."""

    count: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    encoding: str
    records: Iterable[tuple[bytes, int]]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A reader of a set: ``open(folder, split, download)``, and the files that it ``expects`` in the folder."""

    open: Callable[[Path, str, bool], Split]
    expects: str
    downloads: bool = True


def open_celeba(root: Path, split: str, download: bool, attribute: str = "Male") -> Split:
    """Open CelebA as two classes by one of its 40 attributes (0 = absent, 1 = present)."""
    opened = datasets.CelebA(root, split=split, target_type="attr", download=download)
    names = [name for name in opened.attr_names if name]
    if attribute not in names:
        raise unknown("CelebA attribute", attribute, names)
    labels = opened.attr[:, names.index(attribute)].tolist()
    folder = root / "celeba" / "img_align_celeba"
    files = [(folder / name, label) for name, label in zip(opened.filename, labels, strict=True)]
    return _split_from_files(files, (218, 178, 3), (f"not {attribute}", attribute))


def _open_idx(folder: str, loader: Callable[..., Any], root: Path, split: str, download: bool) -> Split:
    if download:
        loader(root, train=split == "train", download=True)
    folders = (root, root / "raw", root / folder / "raw")
    pixels, labels = (_read_idx(folders, name) for name in _IDX[split])
    return _split_from_arrays(pixels[..., None], labels, loader.classes)  # type: ignore[attr-defined]


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
    return _split_from_arrays(opened.data[..., None], opened.targets, _DIGITS)


def _open_cifar(loader: Callable[..., Any], root: Path, split: str, download: bool) -> Split:
    # These files are pickles: torchvision opens them only if their md5 sums are the published ones.
    opened = loader(root, train=split == "train", download=download)
    return _split_from_arrays(opened.data, opened.targets, opened.classes)


def _open_svhn(root: Path, split: str, download: bool) -> Split:
    opened = datasets.SVHN(root, split=split, download=download)
    return _split_from_arrays(opened.data.transpose(0, 2, 3, 1), opened.labels, _DIGITS)


def _open_imagenet(root: Path, split: str, download: bool) -> Split:
    opened = datasets.ImageNet(root, split="val" if split == "test" else split)
    names = tuple(", ".join(synonyms) for synonyms in opened.classes)
    return _split_from_files([(Path(path), label) for path, label in opened.imgs], (224, 224, 3), names)


def _open_places365(root: Path, split: str, download: bool) -> Split:
    variant = "val" if split == "test" else "train-standard"  # its own test split has no labels
    opened = datasets.Places365(root, split=variant, small=True, download=download)
    names = sorted(opened.class_to_idx, key=opened.class_to_idx.__getitem__)
    files = [(Path(path), int(label)) for path, label in opened.imgs]
    return _split_from_files(files, (256, 256, 3), tuple(name.removeprefix("/")[2:] for name in names))


def _open_image_folder(root: Path, split: str, download: bool) -> Split:
    names = ("test", "val", "valid") if split == "test" else (split,)
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no folder {' or '.join(names)} in {root}")
    opened = datasets.ImageFolder(folder)
    files = [(Path(path), label) for path, label in opened.imgs]
    sample = [path for path, _ in files[:: -(-len(files) // _SAMPLED_FILES)]]
    shape = _common_shape(sample)
    mean, std = _measure(sample, shape[2])
    return _split_from_files(files, shape, tuple(opened.classes), mean, std)


def _common_shape(files: Sequence[Path]) -> tuple[int, int, int]:
    """Return the files' common (H, W, C), or 224 by 224 where they differ in size."""
    sizes, modes = set(), set()
    for file in files:
        with Image.open(file) as image:
            sizes.add((image.height, image.width))
            modes.add(image.mode)
    height, width = sizes.pop() if len(sizes) == 1 else (224, 224)
    return height, width, 1 if modes <= {"1", "L"} else 3


def _measure(files: Sequence[Path], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel, each image weighing the same, to four digits."""
    moments = torch.zeros(2, channels, dtype=torch.float64)
    for file in files:
        unit = decode(file.read_bytes(), channels).double() / 255
        moments += torch.stack([unit.mean((0, 2, 3)), unit.square().mean((0, 2, 3))]) / len(files)
    std = (moments[1] - moments[0].square()).clamp(min=1e-4).sqrt()
    return tuple(round(m, 4) for m in moments[0].tolist()), tuple(round(s, 4) for s in std.tolist())


def _split_from_arrays(pixels: NDArray[np.uint8], labels: Iterable[int], classes: Iterable[str]) -> Split:
    """Make a split of pixels (N, H, W, C) in memory."""
    count, height, width, channels = pixels.shape
    records = ((image.tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True))
    return Split(count, (height, width, channels), tuple(classes), RAW, records)


def _split_from_files(
    files: Sequence[tuple[Path, int]],
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Split:
    def records() -> Iterator[tuple[bytes, int]]:
        for path, label in files:
            try:
                image = path.read_bytes()
            except OSError as error:
                raise UsageError(f"{path} cannot be read ({error}); complete the source") from error
            yield image, label

    return Split(len(files), shape, classes, _FILES, records(), mean, std)


def resized(split: Split, size: int) -> Split:
    """Return the split with its shorter sides resized to ``size`` and the centres cut out, as raw pixels."""
    channels = split.shape[2]
    half = (0.5,) * channels
    spec = DataSpec("resized", len(split.classes), channels, size, half, half)

    def resize_record(record: tuple[bytes, int]) -> tuple[bytes, int]:
        image, label = record
        if split.encoding == RAW:
            shaped = torch.frombuffer(bytearray(image), dtype=torch.uint8).view(split.shape).permute(2, 0, 1)[None]
        else:
            shaped = decode(image, channels)
        return fit(shaped, spec)[0].permute(1, 2, 0).contiguous().numpy().tobytes(), label

    def records() -> Iterator[tuple[bytes, int]]:
        rest = iter(split.records)
        with ThreadPoolExecutor() as pool:
            while batch := list(islice(rest, _RESIZED_AT_ONCE)):
                yield from pool.map(resize_record, batch)

    return replace(split, shape=(size, size, channels), encoding=RAW, records=records())


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
        _open_imagenet,
        "ILSVRC2012_devkit_t12.tar.gz and the train and val archives, or meta.bin, train/ and val/ "
        "(class folders without a devkit: convert as imagefolder)",
        downloads=False,
    ),
    "places365": Source(
        _open_places365,
        "categories_places365.txt, the lists places365_train_standard.txt and places365_val.txt, and the images of 256 "
        "pixels in data_256_standard/ and val_256/",
    ),
    "imagefolder": Source(
        _open_image_folder,
        "train/CLASS/*.jpg and test/CLASS/*.jpg (val and valid will do for test)",
        downloads=False,
    ),
}
