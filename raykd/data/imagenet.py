"""ImageNet (ILSVRC2012) from the forms in which people have it: which images there are, and which class each has.

The forms: torchvision's folders ``train/WNID/*`` and ``val/`` with or without such folders; the archives
``ILSVRC2012_img_train.tar`` and ``ILSVRC2012_img_val.tar``; Kaggle's ``ILSVRC/Data/CLS-LOC/{train,val}``; and Hugging
Face's Parquet files. Labels are numbered in the order of the WNIDs, whatever the source numbers them by.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq

from raykd.data import foreign_parquet, parquet, tar_index
from raykd.data.imagenet_labels import (
    DEVKIT,
    SOLUTION,
    WNID,
    Labels,
    all_wnids,
    common_words,
    find_labels,
    name_classes,
)
from raykd.data.sharded import FileRange, Piece, RowGroup, ShardedSplit
from raykd.data.split import FILES, Record, Split
from raykd.errors import CorruptError, UsageError
from raykd.files import as_text
from raykd.spec import DataSpec

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
EXPECTS = (
    f"train/WNID/*.JPEG and val/ (val/WNID/*.JPEG, or flat beside {DEVKIT}.tar.gz), {TRAIN_TAR} and {VAL_TAR} with "
    "that development kit, Kaggle's ILSVRC/ with its LOC_* files, or Hugging Face's Parquet files"
)
_ENDINGS = (".jpeg", ".jpg", ".png")
_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
# Hugging Face's "test" has no labels.
_PARQUET_SPLITS = {"train": ("train",), "test": ("validation", "valid", "val")}
_TRAIN_IMAGES, _VAL_IMAGES = 1_281_167, 50_000
_PER_CLASS = {"train": (732, 1300), "test": (50, 50)}
_CROP_PCT = 0.875  # as its teachers were measured: 256 pixels, of which 224 are cut out
_LISTED = 5  # names in a message
_SAME_ORDER = 0.95  # of the names; others may be words that nobody here knows, never those of another class


@dataclass
class ImageNet:
    """What a source holds: the set's classes in order, and where the images of each split lie, class by class."""

    source: Path
    wnids: tuple[str, ...]
    classes: tuple[str, ...] = ()
    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    per_class: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, split: str) -> int:
        """Return how many images a split has."""
        return sum(self.per_class[split])


def find_imagenet(source: Path, wnids: Sequence[str] | None = None) -> ImageNet:
    """Find ImageNet, or some of its classes, in a folder; reads names and labels, and no image.

    Args:
        source: a folder in one of the forms.
        wnids: of the classes that are wanted, sorted; None for all 1000.

    Raises:
        UsageError: if nothing of the kind is there, labels of a split are missing, or a class has no image.
        CorruptError: if an archive is cut off or holds what it should not, or a file of labels is damaged.
    """
    if not source.is_dir():
        raise UsageError(f"{as_text(source)} is no folder; give one with {EXPECTS}")
    found = ImageNet(source, tuple(wnids or all_wnids()))
    folders = [folder for folder in (source, *(source / name for name in _KAGGLE)) if folder.is_dir()]
    # Kaggle's lists of labels lie beside ILSVRC/, of which people give any part as the source.
    labels = find_labels([*folders, source / "ILSVRC"], source.resolve().parents[:3])
    found.classes = name_classes(found.wnids, labels)
    for split, find in (("train", _find_train), ("test", _find_val)):
        pieces = next((list(some) for folder in folders if (some := find(found, folder, labels)) is not None), None)
        if pieces is not None:
            found.pieces[split] = pieces
            found.per_class[split] = [0] * len(found.wnids)
            for piece in pieces:
                assert isinstance(piece, FileRange), "only these so far"
                found.per_class[split][piece.label] += 1
    if not found.pieces:
        _find_parquet(found)
    if not found.pieces:
        raise UsageError(f"no ImageNet in {as_text(source)}; put there {EXPECTS}")
    _check_counts(found)
    return found


def open_split(source: Path, split: str, download: bool, wnids: Sequence[str] | None = None) -> Split:
    """Open a split of the set, or of some of its classes, as records, class by class.

    Raises:
        FileNotFoundError: if it is not there.
        UsageError, CorruptError: as ``find_imagenet``.
    """
    found = find_imagenet(source, wnids)
    if split not in found.pieces:
        raise FileNotFoundError(f"it has no {'val' if split == 'test' else split}")
    opened = Split(found.count(split), (224, 224, 3), found.classes, FILES, _records(found, split))
    opened.remarks.notes.extend(found.notes)
    return opened


def find_splits(source: Path, wnids: Sequence[str] | None = None) -> list[str]:
    """Return which of "train" and "test" a source has.

    Raises:
        UsageError, CorruptError: as ``find_imagenet``.
    """
    return list(find_imagenet(source, wnids).pieces)


def _records(found: ImageNet, split: str) -> Iterator[Record]:
    for piece in found.pieces[split]:
        yield from piece.records(found.source)


def _find_train(found: ImageNet, folder: Path, labels: Labels | None) -> Iterable[Piece] | None:
    if (folder / "train").is_dir():
        if (folder / TRAIN_TAR).is_file():
            found.notes.append(f"{TRAIN_TAR} is left out: train/ beside it is taken")
        return _in_class_folders(found, folder / "train")
    if (folder / TRAIN_TAR).is_file():
        return _in_train_tar(found, folder / TRAIN_TAR)
    return None


def _find_val(found: ImageNet, folder: Path, labels: Labels | None) -> Iterable[Piece] | None:
    val = folder / "val"
    if val.is_dir():
        with os.scandir(val) as entries:
            if any(WNID.fullmatch(entry.name) and entry.is_dir() for entry in entries):
                return _in_class_folders(found, val)
        return _by_label(found, val, labels, lambda: _files(found, val))
    if (folder / VAL_TAR).is_file():
        return _by_label(found, folder / VAL_TAR, labels, lambda: _members(found, folder / VAL_TAR))
    return None


def _in_class_folders(found: ImageNet, folder: Path) -> list[Piece]:
    """Return the images of the wanted classes' folders.

    Raises:
        UsageError: if a folder is that of no class.
    """
    label_of = {wnid: label for label, wnid in enumerate(found.wnids)}
    strange = []
    with os.scandir(folder) as entries:
        for name in (entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")):
            if name not in label_of and name not in all_wnids():
                strange.append(as_text(Path(name)))
    if strange:
        raise UsageError(
            f"{as_text(folder)} has folders of none of ImageNet's 1000 classes: {_listed(sorted(strange))}; move them "
            "away, or convert other classes by `raykd data imagefolder`"
        )
    return [
        image._replace(label=label)
        for wnid, label in label_of.items()
        if (folder / wnid).is_dir()
        for image in _files(found, folder / wnid)
    ]


def _files(found: ImageNet, folder: Path) -> Iterator[FileRange]:
    """Yield the images of a folder by name, as ones of no class."""
    left = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name.startswith(".") or not entry.is_file() or not entry.name.lower().endswith(_ENDINGS):
                left.append(as_text(Path(entry.path)))
                continue
            path = os.path.relpath(entry.path, found.source)
            yield FileRange(path, 0, entry.stat().st_size, -1)
    if left:
        found.notes.append(f"left out, no image: {_listed(left)}")


def _in_train_tar(found: ImageNet, path: Path) -> Iterator[Piece]:
    """Yield the images of the wanted classes of the archive of archives, each of which is a class.

    Raises:
        CorruptError: if it holds anything else.
    """
    label_of = {wnid: label for label, wnid in enumerate(found.wnids)}
    inside: dict[str, tar_index.Member] = {}
    for member in tar_index.members(path):
        wnid = PurePosixPath(member.name).name.removesuffix(".tar")
        if wnid not in all_wnids() or wnid in inside or not member.name.endswith(".tar"):
            raise CorruptError(
                f"{as_text(path)}: {member.name[:100]!r} is no archive of a class of ImageNet that the others are not; "
                "download it again"
            )
        inside[wnid] = member
    for wnid, label in label_of.items():
        if wnid in inside:
            yield from (image._replace(label=label) for image in _members(found, path, inside[wnid]))


def _members(found: ImageNet, path: Path, inside: tar_index.Member | None = None) -> Iterator[FileRange]:
    """Yield the images of an archive, as ones of no class, by name.

    Raises:
        CorruptError: if two have one name.
    """
    relative = os.path.relpath(path, found.source)
    before = ""
    for member in sorted(tar_index.members(path, inside)):
        if not member.name.lower().endswith(_ENDINGS) or member.name == before:
            raise CorruptError(
                f"{as_text(path)}: {member.name[:100]!r} "
                + ("is there twice" if member.name == before else "is no image, and nothing else belongs there")
                + "; download it again"
            )
        before = member.name
        yield FileRange(relative, member.offset, member.size, -1, member.name)


def _by_label(
    found: ImageNet, place: Path, labels: Labels | None, images: Callable[[], Iterable[FileRange]]
) -> list[Piece]:
    """Return the wanted ones of validation images that lie in no folder of their class.

    Raises:
        UsageError: if nothing says which class one has.
    """
    if labels is None or not labels.validation:
        raise UsageError(
            f"{as_text(place)} has no folders of classes, and nothing says which class an image has: put "
            f"{DEVKIT}.tar.gz, or Kaggle's {SOLUTION}, into {as_text(found.source)}, or give classes by val/WNID/*.JPEG"
        )
    label_of = {wnid: label for label, wnid in enumerate(found.wnids)}
    pieces: list[Piece] = []
    for image in images():
        name = PurePosixPath(image.member or image.path).stem
        if name not in labels.validation:
            raise UsageError(
                f"{as_text(place)}: {labels.source} does not say which class {as_text(Path(name))!r} has; use the "
                "original names, such as ILSVRC2012_val_00000001.JPEG, or give classes by val/WNID/*.JPEG"
            )
        if (wnid := labels.validation[name]) in label_of:
            pieces.append(image._replace(label=label_of[wnid]))
    return pieces


def _find_parquet(found: ImageNet) -> None:
    """Find the images of Parquet files, row group by row group, and read their labels."""
    files, _ = foreign_parquet.find_files(found.source, _PARQUET_SPLITS)
    for split, paths in files.items():
        columns = foreign_parquet.find_columns(paths)
        labels = _map_labels(columns.names, found, paths[0])
        found.per_class[split] = [0] * len(found.wnids)
        found.pieces[split] = []
        for path in paths:
            theirs = foreign_parquet.read_labels([path], columns)
            _check_labels(theirs, len(labels), path)
            first = 0
            for group, (rows, size) in enumerate(_row_groups(path)):
                wanted = [labels[label] for label in theirs[first : first + rows] if labels[label] >= 0]
                for label in wanted:
                    found.per_class[split][label] += 1
                if wanted:
                    share = size * len(wanted) // rows
                    relative = os.path.relpath(path, found.source)
                    found.pieces[split].append(RowGroup(relative, group, first, share, columns, labels))
                first += rows


def _row_groups(path: Path) -> Iterator[tuple[int, int]]:
    """Yield how many rows and bytes each row group has."""
    with parquet.open_file(path) as opened:
        metadata: pq.FileMetaData = opened.metadata
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            yield group.num_rows, group.total_byte_size


def _map_labels(names: Sequence[str], found: ImageNet, path: Path) -> tuple[int, ...]:
    """Return which of the set's labels each of a file's stands for, -1 for none that is wanted.

    Raises:
        UsageError: if the file's classes are not ImageNet's, or in an order that nothing tells.
    """
    where = as_text(path)
    label_of = {wnid: label for label, wnid in enumerate(found.wnids)}
    if names and all(map(WNID.fullmatch, names)):
        strange = sorted(set(names) - set(all_wnids()))
        if strange:
            raise UsageError(f"{where} has classes that are none of ImageNet's 1000: {_listed(strange)}")
        return tuple(label_of.get(name, -1) for name in names)
    if len(names) not in (0, len(all_wnids())):
        raise UsageError(
            f"{where} has {len(names)} classes, ImageNet has {len(all_wnids())}, and their names are no WNIDs that "
            "would tell which these are: convert it as a set of its own by `raykd data parquet`"
        )
    if not names:
        found.notes.append(
            f"{where} does not name its classes: their labels are taken as torchvision's, in the order of the WNIDs"
        )
    else:
        moved, same = _compare_names(names)
        if moved is not None or same < _SAME_ORDER * len(names):
            first = moved[0] if moved is not None else next(k for k in range(len(names)) if not _has_name(names[k], k))
            is_of = f", the name of {all_wnids()[moved[1]]}" if moved is not None else ""
            raise UsageError(
                f"{where} has its classes in another order: class {first} is {names[first]!r}{is_of}, and in the order "
                f"of the WNIDs it is {common_words()[first]!r} ({all_wnids()[first]}); number them in that order, "
                "which teachers know, or convert it as a set of its own by `raykd data parquet`"
            )
    return tuple(label_of.get(wnid, -1) for wnid in all_wnids())


def _has_name(name: str, label: int) -> bool:
    return common_words()[label].casefold() in name.casefold()


def _compare_names(names: Sequence[str]) -> tuple[tuple[int, int] | None, int]:
    """Compare a file's 1000 names, each of one or more words and commas, with those of published teachers.

    Returns:
        The first class that goes by another's name and by none of its own, with that other, None if there is none
        (class 744 is "projectile, missile", and 657 is "missile"); and how many classes go by their own.
    """
    common = [name.casefold() for name in common_words()]
    label_of = {name: label for label, name in enumerate(common) if common.count(name) == 1}
    moved = None
    for label, name in enumerate(names):
        words = {word.strip() for word in name.casefold().split(",")}
        others = sorted(label_of[word] for word in words & label_of.keys())
        if others and common[label] not in words and moved is None:
            moved = label, others[0]
    return moved, sum(_has_name(name, label) for label, name in enumerate(names))


def _check_labels(labels: Sequence[int], classes: int, path: Path) -> None:
    """Refuse labels beyond the classes, as of a file that does not name these and counts from 1.

    Raises:
        UsageError: naming the first.
    """
    row = next((row for row, label in enumerate(labels) if label >= classes), None)
    if row is not None:
        raise UsageError(
            f"{as_text(path)}: row {row} has label {labels[row]}, and ImageNet's are 0 to {classes - 1}, in the order "
            "of the WNIDs: number them so (1 less each if they begin with 1)"
        )


def _check_counts(found: ImageNet) -> None:
    """Refuse classes without an image; tell of numbers that are not the original ones.

    Raises:
        UsageError: saying which are missing and what to do.
    """
    for split, counts in found.per_class.items():
        name = "val" if split == "test" else split
        missing = [wnid for wnid, count in zip(found.wnids, counts, strict=True) if not count]
        if missing:
            raise UsageError(
                f"{as_text(found.source)}: {name} has no image of {len(missing)} of {len(counts)} classes: "
                f"{_listed(missing)}; complete the source, or make a set of the classes that are there by --classes "
                "FILE, a list of them"
            )
        fewest, most = _PER_CLASS[split]
        odd = [(wnid, count) for wnid, count in zip(found.wnids, counts, strict=True) if not fewest <= count <= most]
        total = {"train": _TRAIN_IMAGES, "test": _VAL_IMAGES}[split] if len(counts) == len(all_wnids()) else None
        if odd or (total is not None and sum(counts) != total):
            told = f"{sum(counts):,} images" + (f", and the original has {total:,}" if total is not None else "")
            named = f"; {len(odd)} classes have another number than {_span(fewest, most)}: " if odd else ""
            found.notes.append(
                f"{name} has {told}{named}{_listed([f'{wnid} ({count})' for wnid, count in odd])}: published figures "
                "are of the whole set"
            )
    for split in ("train", "test"):
        if split not in found.pieces:
            found.notes.append(
                "there is no train, so nothing to train on"
                if split == "train"
                else "there is no val, so no split to test on: recipes on this set need data.test=false"
            )


def _span(fewest: int, most: int) -> str:
    return str(fewest) if fewest == most else f"{fewest} to {most:,}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def part_of(wnids: Sequence[str]) -> dict[str, str]:
    """Return what a set's metadata says of the classes (sorted) that it has of all; nothing of the whole set."""
    if len(wnids) == len(all_wnids()):
        return {}
    labels = [all_wnids().index(wnid) for wnid in wnids]
    return {"part_of": json.dumps({"classes": len(all_wnids()), "labels": labels})}


def sharded_splits(found: ImageNet, name: str, spec: DataSpec) -> dict[str, ShardedSplit]:
    """Return the splits as they are to be written for a set called ``name``; ``spec`` is that of ImageNet."""
    about = {
        "name": name,
        "shape": json.dumps([spec.size, spec.size, spec.channels]),
        "encoding": FILES,
        "classes": json.dumps(found.classes),
        "wnids": json.dumps(found.wnids),
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
        "crop_pct": json.dumps(_CROP_PCT),
        "source": "raykd data imagenet",
        "licence": "see the data set's own page",
    }
    about |= part_of(found.wnids)
    order = {"train": "shuffled", "test": "order of the source"}
    return {
        split: ShardedSplit(found.count(split), pieces, split == "train", {**about, "order": order[split]})
        for split, pieces in found.pieces.items()
    }
