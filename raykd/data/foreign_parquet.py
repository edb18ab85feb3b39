"""Image sets in Parquet files that others wrote, such as Hugging Face's.

A column holds the image files, as bytes or as a struct of ``bytes`` and ``path``, another the labels. Which these are,
and what the classes are called, the schema's metadata ``huggingface`` says (features ``Image`` and ``ClassLabel``), or
else the columns' types and names. Files lie as ``train-00000-of-00002.parquet``, as ``train/0000.parquet``, or as a
single one; "validation", "valid" and "val" will do for "test".
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raykd.data import parquet
from raykd.data.split import Record, Split, measured_split
from raykd.errors import CorruptError, UsageError
from raykd.files import as_text

_IMAGE_COLUMNS, _LABEL_COLUMNS = ("image", "img"), ("label", "fine_label", "labels")
# Each split by the names that its files may have; the first that is found is taken.
_SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
_ALIASES = tuple(alias for aliases in _SPLITS.values() for alias in aliases)
_ALIAS_OF_FILE = re.compile(rf"({'|'.join(_ALIASES)})(?![a-z0-9])", re.IGNORECASE)
_SHARD = re.compile(r"-(\d+)-of-(\d+)$")
_ROWS = 256  # read at a time
_ADVICE = "copy or download it again"


@dataclass(frozen=True)
class Columns:
    """Where files have images and labels, and the names of the classes, none where nobody gives them."""

    image: str
    label: str
    other_labels: tuple[str, ...]
    names: tuple[str, ...]


def find_splits(source: Path) -> list[str]:
    """Return which of "train" and "test" a file or a folder has; files whose names do not tell are "train".

    Raises:
        UsageError: if files of one split lie in several folders.
        CorruptError: if files of a split are missing.
    """
    return list(find_files(source)[0])


def set_name(source: Path) -> str:
    """Return what a set is called: as its folder, or as its file, if that is not named by a split."""
    real = source.resolve()
    if real.is_file():
        return real.parent.name if _ALIAS_OF_FILE.match(real.stem) else real.stem
    return real.name


def open_split(source: Path, split: str, download: bool) -> Split:
    """Open a split of a file or a folder: all labels are read now, images as they are wanted.

    Raises:
        FileNotFoundError: if there are no files of it.
        UsageError: if a file has no column of images or of labels, or is of this package's own format.
        CorruptError: if a file is damaged, a label is none of a class, or an image of those sampled cannot be decoded.
    """
    by_split, left = find_files(source)
    files = by_split.get(split, [])
    if not files:
        raise FileNotFoundError(f"no Parquet file of {split!r} in {as_text(source)}")
    columns = find_columns(files)
    labels = {name: read_labels(some, columns) for name, some in by_split.items()}
    count = len(labels[split])
    if not count:
        raise UsageError(f"{as_text(source)}: the files of {split!r} have no rows: give others, or remove them")
    largest = max(max(some, default=0) for some in labels.values())
    classes = columns.names or tuple(map(str, range(max(2, 1 + largest))))
    opened = measured_split(count, classes, _read(files, columns, 1), partial(_read, files, columns))
    opened.remarks.notes.extend(_notes(columns, left, classes, labels.get("train")))
    return opened


def _notes(
    columns: Columns, left: Sequence[Path], classes: Sequence[str], labels: Sequence[int] | None
) -> Iterator[str]:
    if columns.other_labels:
        yield f"labels are column {columns.label!r}; {', '.join(columns.other_labels)} is left out"
    if left:
        yield f"left out, of other splits: {as_text(left[0])}" + (f" and {len(left) - 1} more" if left[1:] else "")
    if labels is None:
        yield "there are no images to train on"
    elif unseen := sorted(set(range(len(classes))) - set(labels)):
        yield f"no image to train on has label {unseen[0]}, of {len(classes)} classes; labels count from 0"


def find_files(source: Path, splits: Mapping[str, Sequence[str]] = _SPLITS) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the files of each split that is there, and those of no split or of one that is not taken.

    Args:
        source: a file, or a folder of files at any depth.
        splits: each by the names that its files may have; the first that is found is taken.

    Raises:
        UsageError, CorruptError: as ``find_splits``.
    """
    by_alias: dict[str | None, list[Path]] = {}
    if source.is_file():
        by_alias[_alias(source, source.parent)] = [source]
    else:
        for path in sorted(source.rglob("*.parquet")):
            if not any(part.startswith(".") for part in path.relative_to(source).parts):
                by_alias.setdefault(_alias(path, source), []).append(path)
    if by_alias.keys() == {None}:
        by_alias = {"train": by_alias[None]}
    found = {}
    for split, aliases in splits.items():
        if taken := next((alias for alias in aliases if alias in by_alias), None):
            found[split] = by_alias.pop(taken)
            if source.is_dir():
                _check_whole(found[split], taken)
    return found, [path for paths in by_alias.values() for path in paths]


def _alias(path: Path, source: Path) -> str | None:
    """Tell a file's split by its name, or by those of the folders that it lies in."""
    if match := _ALIAS_OF_FILE.match(path.stem):
        return match[1].lower()
    folders = reversed(path.relative_to(source).parts[:-1])
    return next((name.lower() for name in folders if name.lower() in _ALIASES), None)


def _check_whole(files: Sequence[Path], alias: str) -> None:
    folders = sorted({path.parent for path in files})
    if len(folders) > 1:
        raise UsageError(
            f"files of {alias!r} lie in {len(folders)} folders, {', '.join(map(as_text, folders[:5]))}: they may be "
            "sets of their own; give one as --source"
        )
    shards = [match for path in files if (match := _SHARD.search(path.stem))]
    if shards:
        total = int(shards[0][2])
        missing = sorted(set(range(total)) - {int(match[1]) for match in shards})
        if missing or len(files) != total:
            raise CorruptError(
                f"{as_text(folders[0])}: the files of {alias!r} do not form one set: {len(files)} are there, of {total}"
                + (f"; number {missing[0]} is missing" if missing else "")
                + "; download them again"
            )


def find_columns(files: Sequence[Path]) -> Columns:
    """Tell what the columns are by the first file that has rows: another may be without types."""
    file = next((path for path in files if sum(parquet.row_groups(path))), files[0])
    metadata = parquet.read_metadata(file)
    if parquet.is_own(metadata):
        raise UsageError(
            f"{as_text(file)} is a file of this package already: set RAYKD_DATA to "
            f"{as_text(file.resolve().parent.parent)}"
        )
    with parquet.open_file(file) as opened:
        types = {field.name: field.type for field in opened.schema_arrow}
    features = _features(file, metadata)
    columns = ", ".join(f"{name} ({kind})" for name, kind in types.items())[:300]
    images = [name for name in types if features.get(name, {}).get("_type") == "Image" and _holds_files(types[name])]
    images = images or [name for name, kind in types.items() if _holds_files(kind)]
    image = _choose(images, _IMAGE_COLUMNS)
    if image is None:
        found = "several columns" if images else "no column"
        raise UsageError(
            f"{as_text(file)} has {found} of images (bytes, or a struct of bytes and path), and none that is called "
            f"{' or '.join(map(repr, _IMAGE_COLUMNS))}; rename the one that is meant; its columns: {columns}"
        )
    named = [name for name in types if features.get(name, {}).get("_type") == "ClassLabel"]
    label = _choose(named, _LABEL_COLUMNS) or next((name for name in _LABEL_COLUMNS if name in types), None)
    if label is None:
        raise UsageError(
            f"{as_text(file)} has no column of labels (called {' or '.join(map(repr, _LABEL_COLUMNS))}, or the one of "
            f"type ClassLabel); rename the one that is meant; its columns: {columns}"
        )
    names = tuple(map(str, features.get(label, {}).get("names") or ()))
    return Columns(image, label, tuple(name for name in named if name != label), names)


def _choose(candidates: Sequence[str], preferred: Sequence[str]) -> str | None:
    return next((name for name in preferred if name in candidates), candidates[0] if len(candidates) == 1 else None)


def _features(file: Path, metadata: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's metadata says of each column; nothing where there is none."""
    try:
        found = json.loads(metadata.get("huggingface", "{}")).get("info", {}).get("features", {})
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (ValueError, AttributeError) as error:
        raise CorruptError(f"{as_text(file)}: its metadata 'huggingface' cannot be read ({error}); {_ADVICE}") from None


def _holds_files(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_files(kind.field("bytes").type)
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def read_labels(files: Sequence[Path], columns: Columns) -> list[int]:
    """Return the labels of all rows.

    Raises:
        CorruptError: if a file is damaged, or a label is none of a class.
    """
    found: list[int] = []
    for file in files:
        with parquet.open_file(file) as opened:
            values = (
                value
                for batch in opened.iter_batches(columns=[columns.label])
                for value in batch.column(columns.label).to_pylist()
            )
            found.extend(_label(value, columns, file, row) for row, value in enumerate(values))
    return found


def _label(value: object, columns: Columns, file: Path, row: int) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if whole and 0 <= value < (len(columns.names) or float("inf")):  # type: ignore[operator]  # a number, then
        return int(value)  # type: ignore[call-overload, no-any-return]
    allowed = f"0 to {len(columns.names) - 1}, of {len(columns.names)} classes" if columns.names else "whole, from 0 on"
    raise CorruptError(
        f"{as_text(file)}: row {row} has {columns.label} {value!r:.50}; labels are numbers {allowed}: mend the column, "
        "or, where a split has no labels, remove its files"
    )


def _read(files: Sequence[Path], columns: Columns, step: int) -> Iterator[Record]:
    """Yield every ``step``-th row of all files together, reading no row group that has none of these."""
    first = 0  # of a row group, among all rows
    for file in files:
        in_file = 0
        with parquet.open_file(file) as opened:
            for group, size in enumerate(parquet.row_groups(file)):
                if -first % step < size:
                    batches = opened.iter_batches(_ROWS, row_groups=[group], columns=[columns.image, columns.label])
                    rows = (row for batch in batches for row in batch.to_pylist())
                    for number, row in enumerate(rows):
                        if (first + number) % step == 0:
                            yield _record(row, columns, file, in_file + number)
                first, in_file = first + size, in_file + size


def read_group(file: Path, columns: Columns, group: int, first: int) -> Iterator[Record]:
    """Yield the rows of one row group, of which the first has number ``first`` in the file.

    Raises:
        CorruptError: if the file is damaged, or a row holds no image or no label.
    """
    with parquet.open_file(file) as opened:
        batches = opened.iter_batches(_ROWS, row_groups=[group], columns=[columns.image, columns.label])
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), first):
            yield _record(row, columns, file, number)


def _record(row: dict[str, Any], columns: Columns, file: Path, number: int) -> Record:
    image = row[columns.image]
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise CorruptError(
            f"{as_text(file)}: row {number} has no bytes in {columns.image}; write the file with its images inside"
        )
    return Record(data, _label(row[columns.label], columns, file, number), f"{as_text(file)}: row {number}")
