"""Files that are whole or not there: sums, writing in one move, locks, and reading what others may have damaged.

A file appears under its name only once all of it is on the disk, so a reader sees the old content or the new. JSON
bears the sum of its own content. What is not as it was written is a CorruptError with the file, what is wrong with it,
and what to do.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PurePath
from typing import IO, Any

from raykd.errors import MAX_SHOWN, CorruptError, InProgress, SetupError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""What a folder of several files is vouched for by: written last, with the sha256 sum of each."""
MAX_JSON_BYTES = 64 * 2**20
"""How much of a file that others may have written is read."""
_MAX_ROWS_BYTES = 4 * 2**30
_DEEPEST = 250
_SUM = "sha256"
_STAGING = ".writing"
_HELD = "held-by-raykd"
_ABANDONED_SECONDS = 24 * 3600
_GLANCES = (0.02, 0.1)  # seconds between tries of a lock: who only asks whether it is free holds it for a moment
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # through a link it would be made elsewhere
# What a disk, a file system or its rights refuse.
_OF_THE_DISK = frozenset(
    {errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR,
     errno.EIO, errno.ESTALE, errno.ENOTCONN}
)  # fmt: skip
_SYSTEM_ERROR = re.compile(r"(?:\[errno|\(os error) (\d+)[])]", re.IGNORECASE)  # as Python, Arrow, safetensors tell it


def is_file(path: Path) -> bool:
    """Tell whether a file is there.

    Raises:
        CorruptError: if something else is.
    """
    if path.is_file():
        return True
    if os.path.lexists(path) and not path.is_file():  # another process may have made it just now
        raise _misplaced(path, "a file")
    return False


def is_folder(path: Path) -> bool:
    """Tell whether a folder is there.

    Raises:
        CorruptError: if something else is.
    """
    if path.is_dir():
        return True
    if os.path.lexists(path) and not path.is_dir():  # another process may have made it just now
        raise _misplaced(path, "a folder")
    return False


def make_folder(path: Path) -> None:
    """Make a folder, with those around it, if it is not there.

    Raises:
        CorruptError: if something else stands in its place.
        SetupError: if it lies too deep for what walks through folders.
        OSError: if the disk does not take it.
    """
    check_depth(path)
    if not is_folder(path):
        path.mkdir(parents=True, exist_ok=True)


def check_depth(path: Path) -> None:
    """Refuse a path in whose folders what makes, walks through or removes them calls itself too often.

    Raises:
        SetupError: saying how deep it lies.
    """
    if len(path.parts) > _DEEPEST:
        raise SetupError(f"{str(path)[:40]!r}... lies {len(path.parts)} folders deep, and {_DEEPEST} are allowed")


def _misplaced(path: Path, wanted: str) -> CorruptError:
    found = "a folder" if path.is_dir() else "a file" if path.is_file() else "no regular file"
    if path.is_symlink():
        found = f"a link to {found}" if path.exists() else "a link that leads nowhere"
    return CorruptError(f"{path} is {found}, and {wanted} belongs there: move it away and run the same command")


def refuse_links_out(folder: Path, names: Iterable[str]) -> None:
    """Refuse what in a folder is a link that leads out of it: what is written there would be written elsewhere.

    Raises:
        CorruptError: naming one of them.
    """
    for path in (folder / name for name in names):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise CorruptError(
                f"{path} is a link that leads out of {folder}, where nothing is written: remove it, or put "
                "what it leads to in its place"
            )


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file of somebody else to be read: a pipe would be waited for, and a device may never end.

    Raises:
        OSError: if it cannot be opened, or is no regular file.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file")
        yield file


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a file of somebody else that has ``limit`` bytes at most.

    Raises:
        OSError: if it cannot be read, is no regular file, or has more.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit or len(content := file.read(limit + 1)) > limit:
            raise OSError(f"it has more than {gib(limit)}")
    return content


def read_text(path: Path) -> str:
    """Return the text of a file of somebody else, a run's rows at most; what is no UTF-8 is replaced.

    Raises:
        OSError: if it cannot be read, is no regular file, or has too much.
    """
    return read_bytes(path, _MAX_ROWS_BYTES).decode(errors="replace")


def sha256_of(path: Path) -> str:
    """Return the sha256 sum of a file's bytes.

    Raises:
        FileNotFoundError: if it is not there.
        CorruptError: if it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise damaged(path, describe(error), "mend the storage, or restore the file from a backup") from None


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Say of an error of a disk what could not be written and what to do; ``what`` names it and where it belongs.

    Raises:
        SetupError: if a disk does not take what is written within.
    """
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"could not write {what} ({describe(error)}); free some space or mend the storage, then run the same "
            "command"
        ) from error


def of_the_disk(error: BaseException) -> SetupError | None:
    """Return what a disk or its rights refused as an error of the environment, None of anything else."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        where = f"{str(error.filename)[:MAX_SHOWN]!r}: " if error.filename else ""
        return SetupError(f"{where}{error.strerror}; give a folder that can be read and written, or mend the storage")
    return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there in the end takes the place of ``path`` in one move.

    Raises:
        CorruptError: if a folder stands there.
        OSError: if the disk does not take it; what was there before is untouched.
    """
    if path.is_dir() and not path.is_symlink():
        raise _misplaced(path, "a file")
    staging, handle = _staged(path)
    try:
        yield staging
        with staging.open("rb") as file:
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        os.close(handle)
        with suppress(OSError):
            staging.unlink(missing_ok=True)


def _staged(path: Path) -> tuple[Path, int]:
    """Make the file that is to take the place of ``path``, and lock it, so that ``sweep`` leaves it alone."""
    while True:
        staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_STAGING}")
        handle = os.open(staging, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        is_swept = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # who sweeps has it, and removes it
            is_swept = True
        except OSError:  # some network file systems know no locks
            pass
        if not is_swept and _is_open_at(handle, staging):
            return staging, handle
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what processes that died left half written in a folder; where locks cannot tell, what is a day old."""
    for path in folder.glob(f".*{_STAGING}"):
        with suppress(OSError), path.open("r+") as file:
            if _can_lock(file) or is_old(path):
                path.unlink()  # while it is locked: it may have been made just now, by who is about to lock it


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within: mark a temporary folder as one that this process needs, so that ``sweep_folders`` leaves it alone."""
    handle = os.open(folder / _HELD, _LOCK_FLAGS, 0o600)
    try:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)  # who sweeps may have it for a moment
        yield
    finally:
        os.close(handle)


def sweep_folders(parent: Path, prefix: str) -> None:
    """Remove folders that bear a mark of ``held``, by processes of this user that have ended.

    Such a folder is there for another day after it was first found here: there may be logs in it.
    """
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError), open(os.open(folder / _HELD, _LOCK_FLAGS & ~os.O_CREAT), "r+") as mark:
            owners = {folder.lstat().st_uid, os.fstat(mark.fileno()).st_uid}
            if folder.is_symlink() or owners != {os.getuid()} or not _can_lock(mark):
                continue
            if not os.fstat(mark.fileno()).st_size:
                mark.write("left behind\n")
            elif is_old(folder / _HELD):
                shutil.rmtree(folder)


def is_old(path: Path) -> bool:
    """Tell whether a file or folder that is there was left alone for so long that nobody can be at it."""
    return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS


def append(path: Path, content: bytes) -> None:
    """Add to a file, made if need be, all or nothing; it is on the disk when this returns.

    Raises:
        OSError: if the disk does not take it.
    """
    with path.open("ab", buffering=0) as file:
        begin, left = file.tell(), content
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(begin)
            raise


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one move: a reader sees the old text or the new, whoever else writes it meanwhile."""
    with replacing(path) as staging:
        staging.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a small file by an object as JSON, and the sum of that."""
    content = {key: one for key, one in value.items() if key != _SUM}  # of an object that was read without parse_json
    write_text(path, json.dumps({**content, _SUM: _sum_of(content)}, indent=1))


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Return the object that ``write_json`` has written, wherever its text was read; without a sum, any object.

    Raises:
        ValueError, RecursionError: if it is anything else.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    if _SUM in value and value.pop(_SUM) != _sum_of(value):
        raise ValueError("it differs from its checksum")
    return value


def _sum_of(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(value)).encode()).hexdigest()


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: the file.
        advice: what a user can do where it is damaged.

    Raises:
        FileNotFoundError: if it is not there.
        CorruptError: if it cannot be read, differs from its sum, or holds anything but an object.
    """
    try:
        return parse_json(read_bytes(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, describe(error), advice) from None


def damaged(path: Path, what: str, advice: str) -> CorruptError:
    """Return the error for a file that is not as it was written."""
    return CorruptError(f"{path} is damaged ({what}); {advice}")


def check_names(names: Iterable[str]) -> None:
    """Refuse what a manifest names that is no plain name of a file in its folder.

    Raises:
        ValueError: naming the first.
    """
    for name in names:
        if PurePath(name).name != name or name in ("", "..") or "\0" in name:
            raise ValueError(f"it names {name[:MAX_SHOWN]!r}, which is no name of a file")


def describe(error: BaseException) -> str:
    """Return the first line of what a library says of a file."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        error = error.__context__  # torch's writer tells of a file that ends where it should not; this is why
    if number := system_error(str(error)):
        return os.strerror(number)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def gib(amount: float) -> str:
    """Format a number of bytes."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            return f"{amount / size:.2f} {unit}"
    return f"{amount:.0f} B"


def system_error(text: str) -> int | None:
    """Return the number of the system's error that a library's text tells of, None where it tells of none."""
    found = _SYSTEM_ERROR.search(text)
    return int(found[1]) if found else None


def as_text(path: Path) -> str:
    """Return a path as text that can be printed, also where its name is no UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def is_text(name: str) -> bool:
    """Tell whether a file's name is UTF-8, which is what can be printed and written into other files."""
    return name == os.fsencode(name).decode(errors="replace")


def parse_content(path: Path, advice: str, read: Callable[[], Any]) -> Any:
    """Return what ``read`` makes of a file's content, whose shape may be another than expected.

    Raises:
        CorruptError: if it is.
    """
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError) as error:
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
        CorruptError: if what stands there cannot be opened.
        SetupError: if the file cannot be made.
    """
    while True:
        handle = _opened(path)
        try:
            try:
                _lock(handle, wait)
            except BlockingIOError:
                raise InProgress(busy) from None
            except OSError as error:  # some network file systems know no locks
                logger.warning("%s cannot be locked (%s): let no second process use it", path, describe(error))
                with suppress(OSError):
                    os.utime(handle)  # for who asks whether somebody is at it
            else:
                if not _is_open_at(handle, path):  # who held it before has removed it: what is locked is nobody's
                    if wait:
                        continue
                    raise InProgress(busy)
            yield
            return
        finally:
            os.close(handle)


def _lock(handle: int, wait: bool) -> None:
    for pause in () if wait else _GLANCES:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause)
    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_free(path: Path) -> bool:
    """Tell whether the lock of a file that is there is held by nobody; False where that cannot be told."""
    try:
        with path.open("r+") as file:
            return _can_lock(file)
    except OSError:
        return False


def is_held(path: Path) -> bool:
    """Tell whether the lock of a file that is there is held by somebody; False where that cannot be told."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _can_lock(file: IO[str]) -> bool:
    """Lock an open file for as long as it is, if nobody else has; False where locks are not known too."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY if path.is_dir() else _LOCK_FLAGS, 0o644)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link, wherever it leads
            raise _misplaced(path, "a file of its own") from None
        raise SetupError(f"{path} cannot be opened ({describe(error)}); mend the storage") from None


def _is_open_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
