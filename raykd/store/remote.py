"""Folders in object stores (S3, Google Cloud Storage), read and written through pyarrow.fs.

Credentials come from the environment as each provider's own tools read them (``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``,
instance roles, ``GOOGLE_APPLICATION_CREDENTIALS``); an address never holds any. ``AWS_ENDPOINT_URL`` and
``STORAGE_EMULATOR_HOST`` name servers that are not Amazon's and not Google's.

Azure is left out: where its client finds no credentials, it ends the process instead of raising.
"""

import copy
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pyarrow.fs as pafs

from raykd.errors import SetupError, UsageError, masked

logger = logging.getLogger(__name__)

_OPTIONS = {"s3": ("endpoint_override", "region", "scheme"), "gs": ("endpoint_override", "scheme")}
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables of the environment that name a server of S3; the first one that is set counts."""
FIRST_PAUSES = (1.0, 3.0)
"""Seconds between tries of the first contact, where a slip is likelier than an outage."""
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0, 60.0, 60.0)
_PERMANENT = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE", "FORBIDDEN", "PERMISSION", "(403)")
_CONNECT_SECONDS, _REQUEST_SECONDS = 5, 60
_GOOGLE_PATIENCE = timedelta(seconds=10)
"""Its client tries for fifteen minutes by itself, in silence."""
_CHUNK = 8 * 2**20
_Answer = TypeVar("_Answer")


def is_remote(location: str | Path) -> bool:
    """Tell whether a location is an address, such as s3://BUCKET/FOLDER, and no path."""
    return "://" in str(location)


def check_address(address: str) -> str:
    """Return an address as it is compared and shown, without a last slash.

    Raises:
        UsageError: if it is none that ``Remote`` opens, or holds a secret.
    """
    parts = urlsplit(address)
    if parts.scheme not in _OPTIONS or not parts.netloc:
        allowed = ", ".join(f"{scheme}://BUCKET/FOLDER" for scheme in _OPTIONS)
        raise UsageError(f"{masked(address)!r} is no store that raykd knows: give a path, or {allowed}")
    options = parse_qsl(parts.query, keep_blank_values=True)
    if ":" in parts.netloc or any("@" in text for text in (parts.netloc, *(value for _, value in options))):
        raise UsageError(
            f"an address such as {parts.scheme}://BUCKET/FOLDER holds no key and no password: set them in the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the provider's own login)"
        )
    for name, _ in options:
        if name not in _OPTIONS[parts.scheme]:
            known = ", ".join(_OPTIONS[parts.scheme]) or "none"
            raise UsageError(f"option {name!r} of a {parts.scheme}:// address is not known; known: {known}")
    return address.rstrip("/")


def join(location: str | Path, name: str) -> str:
    """Return the path or the address of what is called ``name`` in a location."""
    if not is_remote(location):
        return str(Path(location).expanduser() / name)
    bare, mark, options = str(location).partition("?")
    return f"{bare.rstrip('/')}/{name}{mark}{options}"


class Entry(NamedTuple):
    """A file there: its bytes, and when it was written, in whole seconds since 1970 by the store's own clock."""

    size: int
    written: int


class Remote:
    """One folder of an object store. Every call outlasts an outage of a few minutes."""

    def __init__(self, address: str, *, known: bool = False) -> None:
        """Connect, and see whether the folder's bucket answers, unless it is ``known`` that it did to who sends us.

        Raises:
            UsageError: for an address that is none.
            SetupError: if the store does not answer or does not let us in.
        """
        self.address = check_address(address)
        parts = urlsplit(self.address)
        self._filesystem, self._base = _open(parts.scheme, parts.netloc, parts.path, dict(parse_qsl(parts.query)))
        self._has_answered = False
        self._pauses: tuple[float, ...] = PAUSES if known else FIRST_PAUSES
        if not known:
            self._check_bucket(parts.scheme)

    def _check_bucket(self, scheme: str) -> None:
        bucket = self._base.partition("/")[0]
        found = self._with_retries("open", "", lambda: self._filesystem.get_file_info(bucket))
        if found.type == pafs.FileType.NotFound:
            raise SetupError(f"there is no bucket {bucket!r} that {scheme}:// shows us; make it, or name another")
        self._pauses = PAUSES

    def tried_once(self) -> "Remote":
        """Return the same folder for what is not worth waiting for: no call outlasts an outage."""
        once = copy.copy(self)
        once._pauses = ()
        return once

    def display_name(self, name: str) -> str:
        """Return the address of what is called ``name`` here."""
        return join(self.address, name)

    def entries(self, name: str, *, deep: bool = True) -> dict[str, Entry]:
        """Return all files below ``name`` by their paths relative to it; empty where there is nothing.

        A key that would lead out of the folder it is copied to is nobody's of ours, and left out.
        """
        base = self._path(name)
        selector = pafs.FileSelector(base, recursive=deep and bool(name), allow_not_found=True)
        found = self._with_retries("list", name, lambda: self._filesystem.get_file_info(selector))
        files = {one.path[len(base) + 1 :]: _entry(one) for one in found if one.type == pafs.FileType.File}
        return {path: entry for path, entry in files.items() if not {"", "..", "."} & {*path.split("/")}}

    def folders(self) -> list[str]:
        """Return the names of all folders that lie here, sorted."""
        selector = pafs.FileSelector(self._base, allow_not_found=True)
        found = self._with_retries("list", "", lambda: self._filesystem.get_file_info(selector))
        return sorted(one.base_name for one in found if one.type == pafs.FileType.Directory)

    def entry(self, name: str) -> Entry:
        """Return what there is to know of a file.

        Raises:
            SetupError: if there is none.
        """

        def look() -> Entry:
            found = self._filesystem.get_file_info(self._path(name))
            if found.type != pafs.FileType.File:
                raise FileNotFoundError("there is no such file")
            return _entry(found)

        return self._with_retries("find", name, look)

    def try_list(self, name: str) -> list[str]:
        """Return the names of the files of a folder, none if the store does not answer now."""
        try:
            found = self._filesystem.get_file_info(pafs.FileSelector(self._path(name), allow_not_found=True))
        except OSError:
            return []
        return [one.base_name for one in found if one.type == pafs.FileType.File]

    def read(self, name: str) -> bytes | None:
        """Return a small file's content, or None where there is none."""
        return self._with_retries("read", name, lambda: self._content(name))

    def try_read(self, name: str) -> bytes | None:
        """Return a small file's content, or None where there is none or the store does not answer now."""
        try:
            return self._content(name)
        except OSError:
            return None

    def _content(self, name: str) -> bytes | None:
        try:
            with self._filesystem.open_input_stream(self._path(name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to here, where it appears once it is whole.

        Raises:
            SetupError: if the store does not answer for minutes, or at once if the disk here does not take it.
        """
        staging = target.with_name(f".{target.name}.fetching")
        with _local_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)

        def copy_here() -> None:
            with self._filesystem.open_input_stream(self._path(name)) as stream, _LocalFile(staging, "wb") as file:
                shutil.copyfileobj(stream, file, _CHUNK)

        try:
            self._with_retries("fetch", name, copy_here)
            with _local_errors(target):
                staging.replace(target)
        finally:
            with suppress(OSError):
                staging.unlink(missing_ok=True)

    def push(self, source: Path, name: str) -> None:
        """Copy a file from here; it appears there once it is whole.

        Raises:
            SetupError: if the store does not answer for minutes, or at once if the file here cannot be read.
        """

        def copy_there() -> None:
            # A small file is one request; a large one is sent in parts, of which a failure leaves nothing to see.
            with _LocalFile(source, "rb") as file, self._filesystem.open_output_stream(self._path(name)) as stream:
                shutil.copyfileobj(file, stream, _CHUNK)

        self._with_retries("write", name, copy_there)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""

        def put() -> None:
            with self._filesystem.open_output_stream(self._path(name)) as stream:
                stream.write(content)

        self._with_retries("write", name, put)

    def remove(self, name: str) -> None:
        """Remove a folder, if it is there."""
        self._with_retries("remove", name, lambda: self._delete(name))

    def remove_file(self, name: str) -> None:
        """Remove a file, if it is there."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self._filesystem.delete_file(self._path(name))

        self._with_retries("remove", name, delete)

    def try_remove(self, name: str) -> None:
        """Remove a folder, or leave it where the store does not answer now."""
        with suppress(OSError):
            self._delete(name)

    def _delete(self, name: str) -> None:
        if self._filesystem.get_file_info(self._path(name)).type == pafs.FileType.Directory:
            with suppress(FileNotFoundError):  # of Google: a folder is gone with its last file
                self._filesystem.delete_dir(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    def _with_retries(self, verb: str, name: str, call: Callable[[], _Answer]) -> _Answer:
        """Call, and again after longer and longer pauses while the store does not answer."""
        where = self.display_name(name).partition("?")[0].rstrip("/")
        for pause in (*self._pauses, None):
            try:
                answer = call()
                self._has_answered = True
                return answer
            except OSError as error:
                message = str(error).splitlines()[0].rpartition("with a last message of ")[2][:300]
                # Without credentials Google's client speaks of an outage; later on it may be one of who issues them.
                lacks_credentials = not self._has_answered and "OAuth2" in message
                if pause is None or isinstance(error, FileNotFoundError) or _is_permanent(message) or lacks_credentials:
                    raise SetupError(
                        f"could not {verb} {where} ({message}); mend the store, its address or the credentials in the "
                        "environment, then run the same command"
                    ) from None
                logger.warning("could not %s %s (%s); trying again in %.0f s", verb, where, message, pause)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


class _LocalFile:
    """A file of this machine, of which no error is taken for one of the store."""

    def __init__(self, path: Path, mode: str) -> None:
        self._path = path
        with _local_errors(path):
            self._file: IO[bytes] = path.open(mode)

    def __enter__(self) -> "_LocalFile":
        return self

    def __exit__(self, *_: object) -> None:
        with _local_errors(self._path):  # what is buffered is written now
            self._file.close()

    def read(self, size: int = -1) -> bytes:
        with _local_errors(self._path):
            return self._file.read(size)

    def write(self, content: bytes) -> int:
        with _local_errors(self._path):
            return self._file.write(content)


@contextmanager
def _local_errors(path: Path) -> Iterator[None]:
    """Within: what this machine's disk refuses is told of it."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"{path} on this machine: {error.strerror}; mend it, or name another disk's folder in RAYKD_CACHE, where "
            "files of object stores are held, then run the same command"
        ) from None


def _entry(found: Any) -> Entry:
    return Entry(found.size, found.mtime_ns // 10**9)


def _is_permanent(message: str) -> bool:
    return any(sign in message.upper().replace(" ", "_") for sign in _PERMANENT)


def _open(scheme: str, bucket: str, path: str, options: dict[str, str]) -> tuple[Any, str]:
    base = f"{bucket}{path}".rstrip("/")
    if scheme == "s3":
        endpoint = next(filter(None, map(os.environ.get, S3_ENDPOINTS)), None)
        region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        settings = {"endpoint_override": endpoint, "region": region, **options}
        return pafs.S3FileSystem(
            **{name: value for name, value in settings.items() if value},
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=2),
            allow_delayed_open=True,  # one request for a small file
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_REQUEST_SECONDS,
        ), base
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:  # with or without its scheme, as Google's own libraries take it
        server = urlsplit(emulator if "://" in emulator else f"http://{emulator}")
        options = {"endpoint_override": server.netloc, "scheme": server.scheme, **options}
    return pafs.GcsFileSystem(anonymous=bool(emulator), retry_time_limit=_GOOGLE_PATIENCE, **options), base
