"""Folders of image files, a folder for each class: which files belong to the set, and which number a class has."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from raykd.data.split import Split, measured_split_from_files
from raykd.errors import CorruptError, UsageError
from raykd.files import as_text, is_text

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SYSTEM = ("__MACOSX", "@eaDir")  # folders that archivers and disk stations leave behind
_TEST = ("test", "val", "valid")
# What macOS keeps of a file on a disk that is not its own begins so: "._NAME" beside NAME.
_APPLE_NAME, _APPLE_DOUBLE = "._", b"\x00\x05\x16\x07"
_LISTED = 5  # names in a message
_NUMBER = re.compile("-?[0-9]+")


def open_image_folder(root: Path, split: str, download: bool) -> Split:
    """Open ``root/split/CLASS/**``; "val" and "valid" will do for "test".

    Classes are numbered in the order of their names, whole numbers in that of the numbers. What is hidden is left out,
    and a file that has no ending of an image; so are links that lead back to a folder around them.

    Raises:
        FileNotFoundError: if there is no folder of the split, or none of a class in it.
        UsageError: if a class has no image.
        CorruptError: if an image of those that are sampled for size and colours is damaged, or macOS's data of an image
            is there without the image.
    """
    names = _TEST if split == "test" else (split,)
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no folder {' or '.join(names)} in {as_text(root)}")
    walk = _Walk(folder)
    classes = sorted(walk.class_folders(), key=_class_name)
    if not classes:
        raise FileNotFoundError(f"no folder of a class in {as_text(folder)}")
    notes = list(_ambiguities(classes))
    if all(_NUMBER.fullmatch(path.name) for path in classes):
        by_name, classes = classes, sorted(classes, key=lambda path: (int(path.name), path.name))
        if by_name != classes:
            notes.append(
                f"class folders are numbers: labels 0, 1, ... are {_names(classes)}, in the order of the numbers; "
                f"torchvision's ImageFolder has {_names(by_name)}: for a teacher of that order put a letter before the "
                "folders' names"
            )
    files = [(path, label) for label, path in enumerate(classes) for path in walk.images(path)]
    empty = sorted(set(range(len(classes))) - {label for _, label in files})
    if empty:
        raise UsageError(
            f"no image in {_listed(as_text(classes[label]) for label in empty)} (endings that are read: "
            f"{', '.join(_ENDINGS)}): add some, or remove the folder from all splits"
        )
    opened = measured_split_from_files(files, tuple(map(_class_name, classes)))
    opened.remarks.notes.extend([*notes, *walk.notes()])
    return opened


class _Walk:
    """Goes through folders, following links, and keeps what it leaves out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        real = folder.resolve()
        self._around = frozenset(map(_identity, (real, *real.parents)))
        self._left: dict[str, list[str]] = {}

    def notes(self) -> list[str]:
        """Return a line for each kind of what was left out."""
        return [f"left out, {why}: {_listed(names)}" for why, names in self._left.items()]

    def class_folders(self) -> list[Path]:
        """Return the folders of classes.

        Raises:
            UsageError: if a name is no text.
        """
        folders, files = self._entries(self._folder, self._around)
        for path in files:
            self._leave("in no folder of a class", path)
        for path in folders:
            if not is_text(path.name):
                raise UsageError(f"{as_text(path)}: the name of a class is no UTF-8 text: rename the folder")
        return folders

    def images(self, folder: Path) -> Iterator[Path]:
        """Yield the images of a class, those of each folder by name, folders by path.

        Raises:
            CorruptError: if macOS's data of an image is there without the image.
        """
        for _, files in sorted(self._below(folder, self._around)):
            for path in files:
                if path.name.lower().endswith(_ENDINGS):
                    yield path
                else:
                    self._leave("without the ending of an image", path)

    def _below(self, folder: Path, around: frozenset[tuple[int, int]]) -> Iterator[tuple[str, list[Path]]]:
        """Yield a folder and those in it, each with its files by name."""
        around |= {_identity(folder)}
        folders, files = self._entries(folder, around)
        yield str(folder), files
        for path in folders:
            yield from self._below(path, around)

    def _entries(self, folder: Path, around: frozenset[tuple[int, int]]) -> tuple[list[Path], list[Path]]:
        """Return the folders and the files of a folder that are not hidden, by name."""
        folders, files = [], []
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.name in _SYSTEM:
                _refuse_lone_companion(path)
                self._leave("hidden", path)
            elif not path.is_dir():
                if path.exists() and not path.is_file():  # a pipe, which would be waited for
                    self._leave("no file and no folder", path)
                else:
                    files.append(path)
            elif _identity(path) in around:
                self._leave("links that lead back to a folder around them", path)
            else:
                folders.append(path)
        return folders, files

    def _leave(self, why: str, path: Path) -> None:
        self._left.setdefault(why, []).append(as_text(path))


def _refuse_lone_companion(path: Path) -> None:
    """Refuse what macOS keeps beside a file where that file is lost: the image itself was not copied."""
    if not path.name.startswith(_APPLE_NAME) or not path.name.lower().endswith(_ENDINGS) or not path.is_file():
        return
    image = path.with_name(path.name.removeprefix(_APPLE_NAME))
    with path.open("rb") as file:
        if file.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE and not image.exists():
            raise CorruptError(
                f"{as_text(path)} is what macOS keeps beside an image, and {as_text(image)} itself is not there: copy "
                "it again, or remove this file"
            )


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _class_name(path: Path) -> str:
    # macOS takes letters and their accents apart: the same class would have two names.
    return normalize("NFC", path.name)


def _ambiguities(classes: Sequence[Path]) -> Iterator[str]:
    """Tell of classes that may be meant as one."""
    by_name: dict[str, list[str]] = {}
    for path in classes:
        by_name.setdefault(_class_name(path).casefold(), []).append(path.name)
    for names in by_name.values():
        if len(names) > 1:
            yield f"class folders {_listed(names)} differ in case alone, and are taken for {len(names)} classes"


def _names(classes: Sequence[Path]) -> str:
    return ", ".join(path.name for path in classes[:3])


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _LISTED:,} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more
