"""The table of data sets, and how one is loaded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raykd.data import parquet
from raykd.data.pixels import fit, require_memory
from raykd.errors import CorruptError, MissingData, SetupError, UsageError, did_you_mean, unknown
from raykd.spec import DataSpec


class Images(NamedTuple):
    """Images in memory: uint8 pixels (N, C, H, W) and int64 labels (N,)."""

    pixels: Tensor
    labels: Tensor


_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Chen et al. 2019 normalise both CIFAR sets with the constants of CIFAR-10.
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)

# Name, classes, channels, side of the network input in pixels, mean and std of images in [0, 1].
_SPECS = (
    DataSpec("digits", 10, 1, 32, (0.3061,), (0.3239,), _DIGITS),  # measured: train split at 32 pixels
    DataSpec("mnist", 10, 1, 32, (0.1307,), (0.3081,), _DIGITS),  # as Chen et al. 2019: measured at 28, used at 32
    DataSpec("usps", 10, 1, 32, (0.2549,), (0.3484,), _DIGITS),  # measured: train split at 32 pixels
    DataSpec("fashion-mnist", 10, 1, 32, (0.2860,), (0.3530,), _FASHION),  # as usual: measured at 28
    DataSpec("cifar10", 10, 3, 32, _CIFAR_MEAN, _CIFAR_STD, _CIFAR10),
    DataSpec("cifar100", 100, 3, 32, _CIFAR_MEAN, _CIFAR_STD),
    DataSpec("tiny-imagenet-50", 50, 3, 64, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
    DataSpec("svhn", 10, 3, 32, _HALF, _HALF, _DIGITS),  # as Fang et al. 2021
    DataSpec("celeba", 2, 3, 224, _HALF, _HALF),
    DataSpec("places365", 365, 3, 224, _HALF, _HALF),
    DataSpec("imagenet", 1000, 3, 224, _IMAGENET_MEAN, _IMAGENET_STD),  # resized to 224: recipes say data.crop_pct
)
DATASETS: dict[str, DataSpec] = {spec.name: spec for spec in _SPECS}


def data_spec(
    name: str,
    *,
    data_root: Path | None = None,
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    pad: int = 0,
    crop_pct: float | None = None,
) -> DataSpec:
    """Return the DataSpec of a data set; reads no image.

    A name of ``DATASETS`` needs no data root. Any other is looked up as ``<data_root>/<name>/``, or
    as a folder by itself if it is a path (it contains "/" or begins with "."), and its metadata
    read; without mean and std there, 0.5 stands for both. The keywords replace what was found.

    Raises:
        UsageError: if the name is unknown or a replacement does not fit the channels.
        CorruptError: if the metadata is damaged.
    """
    if name in DATASETS:
        spec = DATASETS[name]
    else:
        folder = _find_folder(name, data_root)
        spec = _spec_from_header(
            name, parquet.read_header(_split_files(folder, name, parquet.find_splits(folder)[0])[0])
        )
    return replace(
        spec,
        size=spec.size if size is None else size,
        mean=spec.mean if mean is None else tuple(mean),
        std=spec.std if std is None else tuple(std),
        pad=pad,
        crop_pct=spec.crop_pct if crop_pct is None else crop_pct,
    )


def train_spec(name: str, spec: DataSpec, data_root: Path | None, *, labelled: bool = True) -> DataSpec:
    """Return the DataSpec by which the training images of set ``name`` become the input of a network of ``spec``.

    That is ``spec``, but for a synthetic set the mean and std are the set's own: they undo its
    8-bit storage, so that the network sees what the generators made for ``spec``'s normalisation.
    Nor is it padded, or cut out of a larger one: generators make the whole input. Raw pixels are not cut out either.
    A set that is not there is left to ``load_images`` to complain of. Reads no image.

    Raises:
        UsageError: if the set has other classes and is ``labelled``, or is synthetic and has other channels.
        CorruptError: if the set's metadata is damaged.
    """
    header = train_header(name, data_root)
    synthetic = header is not None and header.synthetic
    if header is not None and header.raw:
        spec = replace(spec, crop_pct=1.0)
    if name == spec.name and not synthetic:
        return spec
    if header is not None:
        set_spec = _spec_from_header(name, header)
    elif name in DATASETS:
        set_spec = DATASETS[name]
    else:
        return spec
    if labelled and set_spec.num_classes != spec.num_classes:
        raise UsageError(
            f"training set {name!r} has {set_spec.num_classes} classes, data {spec.name!r} has "
            f"{spec.num_classes}; they must be equal: name another set in data.train"
        )
    if not synthetic:
        return spec
    if set_spec.channels != spec.channels:
        raise UsageError(
            f"synthetic set {name!r} has images of {set_spec.channels} channels, data {spec.name!r} has "
            f"{spec.channels}; they must be equal: name another set in data.train"
        )
    return replace(spec, mean=set_spec.mean, std=set_spec.std, pad=0)


def load_images(name: str, split: str, spec: DataSpec, data_root: Path | None, rows: Tensor | None = None) -> Images:
    """Load a split, or its ``rows`` (ascending), as a network of ``spec`` wants it: resized, mapped to its channels.

    Raises:
        UsageError: if name or split is unknown, the files are not there or do not fit into memory.
        CorruptError: if a file is damaged.
    """
    if name in EMBEDDED:
        images = EMBEDDED[name](split, spec)
        return images if rows is None else Images(images.pixels[rows], images.labels[rows])
    files = find_split(name, split, data_root)
    count = parquet.read_header(files[0]).count
    chosen = torch.arange(count) if rows is None else rows
    require_memory(name, split, len(chosen), spec)
    pixels = torch.empty(len(chosen), spec.channels, spec.size, spec.size, dtype=torch.uint8)
    labels = torch.empty(len(chosen), dtype=torch.int64)
    images_read = images_stored = 0
    for some_pixels, some_labels in parquet.read(files, lambda images: fit(images, spec)):
        end = images_read + len(some_labels)
        if end > count:
            raise CorruptError(f"{files[0].parent}: {split!r} holds more than the {count:,} images it promises")
        chosen_here = chosen[images_stored : int(torch.searchsorted(chosen, end))]
        target = slice(images_stored, images_stored + len(chosen_here))
        pixels[target], labels[target] = some_pixels[chosen_here - images_read], some_labels[chosen_here - images_read]
        images_read, images_stored = end, target.stop
        if rows is not None and images_stored == len(rows):
            return Images(pixels, labels)
    if images_read != count:
        raise CorruptError(f"{files[0].parent}: {split!r} holds {images_read:,} images, its metadata says {count:,}")
    return Images(pixels, labels)


def count_images(name: str, split: str, data_root: Path | None) -> int:
    """Return how many images a split has; reads none but of an embedded set.

    Raises:
        UsageError: if the files are not there.
        CorruptError: if the first is damaged.
    """
    if name in EMBEDDED:
        return len(EMBEDDED[name](split, DATASETS[name]).labels)
    return parquet.read_header(find_split(name, split, data_root)[0]).count


def find_split(name: str, split: str, data_root: Path | None) -> list[Path]:
    """Return the files of a split, none for an embedded set; reads of those of a known set what classes they have.

    Raises:
        MissingData: if they are not there, saying how to make them.
        UsageError: if a set called as one of ``DATASETS`` has other classes, or these in another order.
        CorruptError: if the metadata of such a set is damaged.
    """
    if name in EMBEDDED:
        return []
    if name not in DATASETS:
        return _split_files(_find_folder(name, data_root), name, split)
    if data_root is None:
        raise MissingData(
            f"data set {name!r} is a folder of {split}-*.parquet files under the data root, "
            f"and none is set; {_how_to_make(name)}"
        )
    files = _split_files(data_root / name, name, split)
    _check_classes(DATASETS[name], files[0])
    return files


def _check_classes(known: DataSpec, file: Path) -> None:
    """Refuse a set by whose name other labels are known: a teacher of these would be shown images of other classes.

    Names that are unknown are let pass: sources spell them differently ("T-shirt/top", "T-shirt").
    """
    header = parquet.read_header(file)
    if len(header.classes) != known.num_classes or header.part_of is not None:
        found = f"{len(header.classes)} classes" + (", some of a larger set's" if header.part_of is not None else "")
        wrong = f"has {found}, and {known.name!r} is known to have {known.num_classes}"
    else:
        moved = [
            (label, name)
            for label, (name, ours) in enumerate(zip(header.classes, known.class_names, strict=False))
            if name != ours and name in known.class_names
        ]
        if not moved:
            return
        label, name = moved[0]
        wrong = f"has {name!r} as class {label}, which of {known.name!r} is {known.class_names[label]!r}"
    raise UsageError(
        f"{file} {wrong}: a set of other classes, or of another order, needs another name: rename its folder, and name "
        "that in the recipe"
    )


def _load_digits(split: str, spec: DataSpec) -> Images:
    """Load scikit-learn's 8x8 digits: every fifth image is test, the rest train."""
    if split not in ("train", "test"):
        raise unknown("split of digits", split, ("train", "test"))
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SetupError("data set 'digits' comes with scikit-learn; run `pip install scikit-learn`") from error
    digits = load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    is_test = torch.arange(len(levels)) % 5 == 4
    rows = is_test if split == "test" else ~is_test
    return Images(
        fit(torch.from_numpy(levels)[rows].unsqueeze(1), spec),
        torch.from_numpy(digits.target)[rows].to(torch.int64),
    )


EMBEDDED: dict[str, Callable[[str, DataSpec], Images]] = {"digits": _load_digits}


def _spec_from_header(name: str, header: parquet.Header) -> DataSpec:
    height, width, channels = header.shape
    half = (0.5,) * channels
    return DataSpec(
        name,
        num_classes=len(header.classes),
        channels=channels,
        size=min(height, width),
        mean=header.mean or half,
        std=header.std or half,
        class_names=header.classes,
        crop_pct=header.crop_pct,
        part_of=header.part_of,
    )


def train_header(name: str, data_root: Path | None) -> parquet.Header | None:
    """Read the header of a set's training files; None where there are none."""
    if name in EMBEDDED or (data_root is None and not _is_path(name)):
        return None
    folder = Path(name) if data_root is None or _is_path(name) else data_root / name
    files = parquet.find_files(folder, "train")
    return parquet.read_header(files[0]) if files else None


def _is_path(name: str) -> bool:
    return "/" in name or name.startswith(".")


def _find_folder(name: str, data_root: Path | None) -> Path:
    if _is_path(name):
        if not parquet.find_splits(Path(name)):
            raise MissingData(
                f"data set {name!r} is named by a path, and there is no folder with train-*.parquet files; "
                "give the folder that `raykd data` or `raykd synthesize` wrote, or the set's name under RAYKD_DATA"
            )
        return Path(name)
    folders = []
    if data_root is not None and data_root.is_dir():
        folders = [path.name for path in data_root.iterdir() if path.is_dir() and parquet.find_splits(path)]
    if data_root is None or name not in folders:
        if data_root is not None:
            _refuse_foreign(data_root / name)
        if _resized_from(name) is not None:
            raise MissingData(f"data set {name!r} is not under the data root; {_how_to_make(name)}")
        if data_root is not None and not data_root.is_dir():
            raise MissingData(
                f"no data set {name!r}{did_you_mean(name, DATASETS)}: the data root {data_root} is not there; correct "
                "RAYKD_DATA, or data_root in the cluster file"
            )
        raise unknown("data set", name, {*DATASETS, *folders})
    return data_root / name


def _split_files(folder: Path, name: str, split: str) -> list[Path]:
    files = parquet.find_files(folder, split)
    if not files:
        splits = parquet.find_splits(folder)
        if not splits:
            _refuse_foreign(folder)
        raise MissingData(
            f"data set {name!r}: no file matches {folder}/{split}-*.parquet"
            + (f" (splits there: {', '.join(splits)}); " if splits else "; ")
            + _how_to_make(name)
        )
    return files


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder of which no file is called as a set's are, though there are Parquet files in it.

    Raises:
        ForeignFormat: saying how to convert them.
    """
    if next(folder.rglob("*.parquet"), None) is not None:
        raise parquet.foreign(folder, folder)


def _how_to_make(name: str) -> str:
    from raykd.data.sources import SOURCES  # torchvision's, which takes its time

    original, size = _resized_from(name) or (name, None)
    source, folder = original, "FOLDER"
    if original not in SOURCES:
        source, folder = "imagefolder", f"FOLDER/{Path(original).resolve().name}"
    resized = "" if size is None else f" --size {size}"
    return (
        "set the data root by RAYKD_DATA or by data_root in the cluster file, "
        f"or make the set: `raykd data {source}{resized} --source {folder} --out DIR`"
    )


def _resized_from(name: str) -> tuple[str, int] | None:
    """Return set and size of a name as ``raykd data NAME --size N`` gives it, or None."""
    original, _, size = name.rpartition("-")
    return (original, int(size)) if name not in DATASETS and original in DATASETS and size.isdecimal() else None
