"""Where the files of a tar archive lie in it, so that they are read from there and nothing is unpacked.

Names in an archive are text to look at and never paths to write to. What no archive of images has, such as links,
devices and names that lead out of a folder, is refused.
"""

import tarfile
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from raykd.errors import CorruptError
from raykd.files import as_text, describe, open_regular

_BLOCK = 512  # bytes; two of zeros end an archive
_ADVICE = "copy or download it again"


class Member(NamedTuple):
    """A file in an archive: its name, and the range of the archive's bytes that it is."""

    name: str
    offset: int
    size: int


class _Region(BufferedIOBase):
    """A range of a file as a file by itself."""

    def __init__(self, file: BufferedIOBase, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._offset + self._at)
        content = self._file.read(left if size is None or size < 0 else min(size, left))
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at


def members(path: Path, inside: Member | None = None) -> Iterator[Member]:
    """Yield the files of an uncompressed archive in its order; hidden ones and folders are left out.

    Args:
        path: the archive.
        inside: a file of it that is an archive itself, whose files are wanted.

    Raises:
        CorruptError: if it is cut off or damaged, or holds what an archive of images does not.
    """
    name = as_text(path) + (f": {inside.name}" if inside else "")
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            offset, size = (inside.offset, inside.size) if inside else (0, size)
            region = _Region(file, offset, size)
            end = 0
            with tarfile.open(fileobj=region, mode="r:", errorlevel=0) as archive:
                for member in archive:
                    end = member.offset_data + _blocks(member.size if member.isreg() else 0)
                    _check(member, name, size)
                    if member.isreg() and not _is_hidden(member.name):
                        yield Member(member.name, offset + member.offset_data, member.size)
            region.seek(end)
            if region.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError("it has no end: it is cut off, or more follows that is no file of it")
    except CorruptError:
        raise
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, RecursionError) as error:
        raise CorruptError(f"{name} is no whole tar archive ({describe(error)}); {_ADVICE}") from None


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _is_hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".")


def _check(member: tarfile.TarInfo, archive: str, size: int) -> None:
    path = PurePosixPath(member.name)
    shown = member.name.encode(errors="backslashreplace").decode()[:100]
    kind = None
    if member.issym() or member.islnk():
        kind = "a link"
    elif not (member.isreg() or member.isdir()) or member.issparse():
        kind = "no plain file"
    elif path.is_absolute() or ".." in path.parts:
        kind = "named so that it would lie outside of a folder"
    elif member.size < 0 or member.offset_data + member.size > size:
        raise CorruptError(f"{archive} is no whole tar archive (it ends within {shown!r}); {_ADVICE}")
    if kind:
        raise CorruptError(
            f"{archive}: {shown!r} is {kind}, which no archive of images has; nothing is unpacked: get the archive "
            "from where the set is published"
        )
