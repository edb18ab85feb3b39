"""Files that are whole or not there: sums, writing in one move, locks, and reading what others may have damaged.

A file appears under its name only once all of it is on the disk, so a reader sees the old content or the new. What is
not as it was written is a CorruptError with the file, what is wrong with it, and what to do.
"""

import fcntl
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raykd.errors import CorruptError, InProgress

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""What a folder of several files is vouched for by: written last, with the sha256 sum of each."""


def sha256_of(path: Path) -> str:
    """Return the sha256 sum of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there in the end takes the place of ``path`` in one move.

    Raises:
        CorruptError: if a directory stands there.
        OSError: if the disk does not take it; what was there before is untouched.
    """
    if path.is_dir() and not path.is_symlink():
        raise CorruptError(f"{path} is a directory, and a file belongs there: move it away and run the same command")
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.writing")
    try:
        yield staging
        with staging.open("rb") as file:
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        with suppress(OSError):
            staging.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one move: a reader sees the old text or the new, whoever else writes it meanwhile."""
    with replacing(path) as staging:
        staging.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a small file by a value as JSON."""
    write_text(path, json.dumps(value, indent=1))


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: the file.
        advice: what a user can do where it is damaged.

    Raises:
        FileNotFoundError: if it is not there.
        CorruptError: if it cannot be read, or holds anything but an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, describe(error), advice) from None
    if not isinstance(value, dict):
        raise damaged(path, f"it holds a {type(value).__name__}, not an object", advice)
    return value


def damaged(path: Path, what: str, advice: str) -> CorruptError:
    """Return the error for a file that is not as it was written."""
    return CorruptError(f"{path} is damaged ({what}); {advice}")


def describe(error: BaseException) -> str:
    """Return the first line of what a library says of a file."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def checked(path: Path, advice: str, read: Callable[[], Any]) -> Any:
    """Return what ``read`` makes of a file's content, whose shape may be another than expected.

    Raises:
        CorruptError: if it is.
    """
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        if isinstance(error, CorruptError):
            raise
        what = f"{error} is missing" if isinstance(error, KeyError) else describe(error)
        raise damaged(path, what, advice) from None


@contextmanager
def locked(path: Path, *, wait: bool, busy: str = "") -> Iterator[None]:
    """Hold the lock of a file, which is made if need be; where the file system knows no locks, say so and go on.

    Args:
        path: a file that is there for nothing else, or a directory.
        wait: whether to wait for who holds it.
        busy: what to say if somebody does, and is not waited for.

    Raises:
        InProgress: if another process holds it.
    """
    while True:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InProgress(busy) from None
            except OSError as error:  # some network file systems know no locks
                logger.warning("%s cannot be locked (%s): let no second process use it", path, describe(error))
            else:
                if not _is_open_at(handle, path):  # who held it before has removed it: what is locked is nobody's
                    if wait:
                        continue
                    raise InProgress(busy)
            yield
            return
        finally:
            os.close(handle)


def _is_open_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
