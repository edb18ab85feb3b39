"""The room on a disk, compared with what is to be written there before any of it is."""

import os
import resource
from pathlib import Path

from raykd.errors import SetupError
from raykd.files import gib


def free_space(folder: Path) -> int | None:
    """Return the bytes that this process may still write where a folder is, or will be; None where nobody can tell."""
    place = next((path for path in (folder, *folder.parents) if path.is_dir()), None)
    if place is None:
        return None
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    if not found.f_blocks:  # of file systems that do not count
        return None
    return found.f_frsize * found.f_bavail


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def require_room(what: str, folder: Path, needed: int, largest: int, remedy: str) -> None:
    """Refuse to write more than there is room for.

    Args:
        what: is to be written.
        folder: where; it need not be there yet.
        needed: about how many bytes more it will take.
        largest: bytes of its largest file.
        remedy: what else than room would help.

    Raises:
        SetupError: if the disk has less, or this process may not write a file as large.
    """
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and largest > limit:
        raise SetupError(
            f"{what} needs about {gib(largest)} in one file, and this process may write files of {gib(limit)} "
            "(`ulimit -f`): raise that limit, then run the same command"
        )
    free = free_space(folder)
    if free is not None and needed > free:
        raise SetupError(f"{what} needs about {gib(needed)}, {gib(free)} free in {folder}: free space, or {remedy}")
