"""ImageNet's 1000 classes: their WordNet ids (WNIDs), what they are called, and which one a validation image has.

Labels are numbered in the order of the WNIDs, as torchvision numbers them; the development kit's own numbers are of
another order and stay inside this file. Nothing that is read here can execute.
"""

import csv
import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from raykd.errors import CorruptError, RaykdError, UsageError, did_you_mean
from raykd.files import as_text, describe, open_regular, read_bytes

WNID = re.compile(r"n\d{8}")
DEVKIT = "ILSVRC2012_devkit_t12"
MAPPING, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_TORCHVISION = "meta.bin"
_VALIDATION = "ILSVRC2012_val_{:08d}"
_MOST_BYTES = 64 * 2**20  # of a file of labels, and of a development kit unpacked; the real one has 3 MB
_ADVICE = "copy or download it again"


class Labels(NamedTuple):
    """What was found beside the images: words by WNID, and WNIDs of validation images by their names without ending.

    Both may be empty. ``source`` is the file, for messages.
    """

    words: Mapping[str, str]
    validation: Mapping[str, str]
    source: str


@cache
def all_wnids() -> tuple[str, ...]:
    """Return the WNIDs of ILSVRC2012's 1000 classes, the label of each being its place."""
    return tuple((files("raykd.data") / "imagenet_wnids.txt").read_text(encoding="ascii").split())


@cache
def common_words() -> tuple[str, ...]:
    """Return one name of each class, in the order of the labels, as published teachers bear them."""
    from torchvision.models import ResNet18_Weights  # takes its time

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def find_labels(folders: Sequence[Path], around: Sequence[Path] = ()) -> Labels | None:
    """Return the labels that the first of the folders has which has any; None where none has.

    Of folders ``around`` the set only Kaggle's lists are taken: what else lies there may be of another set.

    Raises:
        CorruptError: if the file is damaged, or something else.
    """
    readers: tuple[tuple[str, Callable[[Path], Labels]], ...] = (
        (f"{DEVKIT}/data/{_META}", lambda path: _read_devkit(path, partial(_from_folder, path.parent))),
        (f"{DEVKIT}.tar.gz", lambda path: _read_devkit(path, partial(_from_archive, path))),
        (SOLUTION, _read_kaggle),
        (MAPPING, _read_kaggle),
        (_TORCHVISION, _read_torchvision),
    )
    kaggle = [(name, read) for name, read in readers if read is _read_kaggle]
    for folder, some in (*((folder, readers) for folder in folders), *((folder, kaggle) for folder in around)):
        for name, read in some:
            if (folder / name).is_file():
                return _explaining(folder / name, read)
    return None


def _explaining(path: Path, read: Callable[[Path], Labels]) -> Labels:
    try:
        found = read(path)
    except (RaykdError, ImportError):
        raise
    except Exception as error:  # damaged files lead the readers of .mat and .bin to errors of any kind
        raise CorruptError(f"{as_text(path)} cannot be read ({describe(error)}); {_ADVICE}") from None
    strange = next((one for one in (*found.words, *found.validation.values()) if not WNID.fullmatch(one)), None)
    if strange is not None:
        raise CorruptError(f"{as_text(path)}: {strange[:50]!r} is no WNID, such as n01440764; {_ADVICE}")
    return found


def _from_folder(folder: Path, name: str) -> bytes:
    return read_bytes(folder / name, _MOST_BYTES)


def _from_archive(path: Path, name: str) -> bytes:
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:gz") as archive:
        for member in archive:
            if member.offset > _MOST_BYTES:
                break
            if member.isreg() and member.name.endswith(f"data/{name}") and member.size <= _MOST_BYTES:
                content = archive.extractfile(member)
                assert content is not None, "a regular file"
                return content.read()
    raise ValueError(f"it has no data/{name}")


def _read_devkit(path: Path, read: Callable[[str], bytes]) -> Labels:
    """Read meta.mat, whose numbers of classes are not those of the labels, and the list of validation labels."""
    from scipy.io import loadmat  # type: ignore[import-untyped]  # takes its time

    synsets = loadmat(io.BytesIO(read(_META)), squeeze_me=True, variable_names=["synsets"])["synsets"]
    by_number: dict[int, str] = {}
    words = {}
    for synset in synsets.tolist():
        fields = dict(zip(synsets.dtype.names, synset, strict=True))
        if not int(fields["num_children"]):  # others are groups of classes
            by_number[int(fields["ILSVRC2012_ID"])] = str(fields["WNID"])
            words[str(fields["WNID"])] = str(fields["words"])
    numbers = [int(line) for line in read(_TRUTH).decode("ascii").split()]
    unknown = next((number for number in numbers if number not in by_number), None)
    if unknown is not None:
        raise ValueError(f"{_TRUTH} has class {unknown}, which {_META} does not have")
    validation = {_VALIDATION.format(place): by_number[number] for place, number in enumerate(numbers, 1)}
    return Labels(words, validation, as_text(path))


def _read_kaggle(path: Path) -> Labels:
    """Read the two files of the Kaggle form, either of which may be missing."""
    words, validation = {}, {}
    if (path.parent / MAPPING).is_file():
        for line in _lines(path.parent / MAPPING):
            wnid, _, name = line.strip().partition(" ")
            if wnid:
                words[wnid] = name.strip()
    if (path.parent / SOLUTION).is_file():
        for row in csv.reader(_lines(path.parent / SOLUTION)):
            if len(row) == 2 and row[0] != "ImageId":
                # The class, then its place: several objects of an image are of one class.
                validation[row[0]] = row[1].split(maxsplit=1)[0]
    return Labels(words, validation, as_text(path))


def _lines(path: Path) -> Iterator[str]:
    yield from read_bytes(path, _MOST_BYTES).decode("utf-8-sig").splitlines()


def _read_torchvision(path: Path) -> Labels:
    """Read what torchvision makes of a development kit: words by WNID, and the WNIDs of the validation images."""
    import torch

    with open_regular(path) as file:
        words: Any
        words, validation = torch.load(file, weights_only=True)
    named = {str(wnid): names if isinstance(names, str) else ", ".join(names) for wnid, names in words.items()}
    by_image = {_VALIDATION.format(place): str(wnid) for place, wnid in enumerate(validation, 1)}
    return Labels(named, by_image, as_text(path))


def name_classes(wnids: Sequence[str], labels: Labels | None) -> tuple[str, ...]:
    """Return what classes are called: by the set's own words, else by those of published teachers."""
    own = labels.words if labels is not None else {}
    common = dict(zip(all_wnids(), common_words(), strict=True))
    return tuple(own.get(wnid) or common.get(wnid, wnid) for wnid in wnids)


def read_class_list(path: Path) -> tuple[str, ...]:
    """Return the WNIDs that a text file lists, one class a line, sorted as labels number them.

    A line is a WNID, or a name that published teachers bear ("tench"); what follows a WNID, and "#", is left out.

    Raises:
        UsageError: if the file is not there or lists fewer than two classes, a class is unknown, ambiguous or listed
            twice.
    """
    try:
        text = read_bytes(path, _MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{as_text(path)}, a list of classes, cannot be read ({describe(error)})") from None
    known = all_wnids()
    by_name: dict[str, list[str]] = {}
    for wnid, name in zip(known, common_words(), strict=True):
        by_name.setdefault(name.casefold(), []).append(wnid)
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        where = f"{as_text(path)}, line {number}"
        first = entry.split()[0]
        wnids = [first] if first in known else by_name.get(entry.casefold(), [])
        if len(wnids) != 1:
            what = f"several classes, {' and '.join(wnids)}" if wnids else "none of ImageNet's 1000 classes"
            hint = "" if wnids else did_you_mean(first if WNID.fullmatch(first) else entry, [*known, *by_name])
            raise UsageError(f"{where}: {entry[:100]!r} is {what}{hint}; give WNIDs such as n01440764, or names")
        if wnids[0] in found:
            raise UsageError(f"{where}: {entry[:100]!r} is listed already, in line {found[wnids[0]]}")
        found[wnids[0]] = number
    if len(found) < 2:
        raise UsageError(f"{as_text(path)} lists {len(found)} classes; give 2 or more, one a line")
    return tuple(sorted(found))
