"""A store of runs in an object store, and the part of it that this machine holds.

The engine reads and writes local files only. Before a run, what others have done is downloaded; after each report,
what is new is uploaded, the manifest of a checkpoint behind its files and ``status.json`` last, so that whoever reads
the remote side finds whole checkpoints. ``search.json`` is last too, in both directions: it tells how many trials its
study holds. Every worker uploads what it alone holds, so nothing passes through the bucket twice.

What is here of a file that is not text bears the time of the file there, so that one of another attempt, as long as
its successor, is told from it.

An object store knows no locks: that two machines do not train one run at a time is left to who starts them
(``raykd submit`` joins a run that is at work).
"""

import fnmatch
import os
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from raykd.errors import CorruptError, RaykdError
from raykd.files import MANIFEST, locked, make_folder, parse_json, writing
from raykd.store.checkpoint import POOL, has_all_files, is_checkpoint, pool_files, step_of, step_of_part
from raykd.store.remote import Entry, Remote
from raykd.store.run_directory import CHECKPOINTS, STATUS, TRACKED
from raykd.store.status import parse_status

REPORT = "search.json"
"""The report of a search, in its folder."""
TRIALS = "trials.json"
"""All trials of a search, beside its report."""
SESSION = "session.json"
"""What a session of `raykd distill` has noted, in its folder."""
TABLE = "table.json"
"""The figures of a table, in its folder."""
BEST_OF_FRONT = "best-*.yaml"
"""The recipes beside it of the trials of a Pareto front, which another front takes the place of."""
_MUTABLE = (".json", ".jsonl", ".yaml", ".db", ".log")
"""Endings of small files that are written again and again: always downloaded, and uploaded by every process once."""


Saved = Literal["none", "unfinished", "all"]
"""Whose checkpoints, and pools of images, are downloaded beside all else: of no run, of runs that may go on, or all."""


class Mirror:
    """What this machine holds of a remote store, below a folder of its own."""

    def __init__(self, remote: Remote, local: Path) -> None:
        """Keep the copies below ``local``."""
        self.remote, self.local = remote, local
        self._sent: dict[Path, tuple[int, int]] = {}
        self._began = time.time_ns()
        self._aside: threading.Thread | None = None

    def pull(self, name: str, *, checkpoints: Saved = "unfinished") -> None:
        """Download what this machine lacks of a run or a set; of checkpoints that are left out only the manifest.

        Where more steps are saved here than there, as after an outage, what is here counts.

        Raises:
            SetupError: if the store does not answer for minutes.
        """
        folder = self.local / name
        with writing(f"what is pulled into {folder.parent}"):
            make_folder(folder.parent)
        with locked(folder.parent / f".{folder.name}.pulling", wait=True):
            there = self.remote.entries(name)
            if not there or _last_step(_manifests_in(folder)) > _last_step(there) or self._is_older(name, there):
                return
            done = parse_status(self.remote.read(f"{name}/{STATUS}") or b"").get("state") == "finished"
            whole = checkpoints == "all" or (checkpoints == "unfinished" and not done)
            for path, entry in sorted(there.items(), key=lambda one: _upload_order(one[0])):
                target = folder / path
                group, _, file = path.rpartition("/")
                is_saved = group.startswith((CHECKPOINTS, POOL)) and file != MANIFEST
                if is_saved and not (whole and (group == POOL or f"{group}/{MANIFEST}" in there)):
                    continue
                if path.endswith(_MUTABLE) or not _is_copy(target, entry):
                    self.remote.fetch(f"{name}/{path}", target)
                    self._stamp(target, entry)

    def pull_once(self, name: str, split: str = "") -> None:
        """Download files that never change: those of a split of a data set, or without one the file of that name."""
        target = self.local / name
        with writing(f"what is pulled into {target.parent}"):
            make_folder(target.parent)
        with locked(target.parent / f".{target.name}.pulling", wait=True):
            whole = target / f".{split}-whole"
            if target.is_file() or (split and whole.is_file()):
                return
            folder, _, own = (f"{name}/" if split else name).rpartition("/")
            files = self.remote.entries(folder, deep=False)
            matching = [file for file in files if (file.startswith(f"{split}-") if split else file == own)]
            for file in matching:
                copy = target / file if split else target
                if not copy.is_file() or copy.stat().st_size != files[file].size:
                    self.remote.fetch(f"{folder}/{file}".lstrip("/"), copy)
            if split and matching:
                whole.touch()

    def push(self, name: str, *, elsewhere: Collection[str] = ()) -> None:
        """Upload what is new of a run or a set; ``elsewhere`` are paths in it that other workers have uploaded.

        Checkpoints, and recipes of a search's front, that are not here any more are removed there, and so are files of
        a pool that no checkpoint names any more.

        Raises:
            SetupError: if the store does not answer for minutes; what is here is intact.
        """
        if self._aside is not None:  # what it sends is older
            self._aside.join()
        folder = self.local / name
        there = self.remote.entries(name)
        paths = [path for path in folder.rglob("*") if not _stays_here(path.relative_to(folder)) and path.is_file()]
        relative = {path.relative_to(folder).as_posix(): path for path in paths}
        for file, path in sorted(relative.items(), key=lambda one: _upload_order(one[0])):
            if file not in elsewhere and not self._is_uploaded(path, there.get(file)):
                self.push_file(path, f"{name}/{file}")
        groups = {path.rpartition("/")[0] for path in there if path.startswith(f"{CHECKPOINTS}/")}
        for group in sorted(groups - {path.rpartition("/")[0] for path in relative}):
            self.remote.remove(f"{name}/{group}")
        for file in _replaced_parts(folder, there, relative):
            self.remote.remove_file(f"{name}/{file}")
        if REPORT in relative:
            for file in fnmatch.filter(there.keys() - relative.keys(), BEST_OF_FRONT):
                self.remote.remove_file(f"{name}/{file}")

    def push_file(self, path: Path, name: str, *, once: bool = False) -> None:
        """Upload one file; ``name`` is its path in the store. One that nothing depends on is tried ``once``.

        Raises:
            SetupError: if the store does not answer for minutes, or the one time.
        """
        remote = self.remote.tried_once() if once else self.remote
        found = path.stat()  # text may grow meanwhile
        remote.push(path, name)
        self._sent[path] = (found.st_size, found.st_mtime_ns)
        if path.suffix not in _MUTABLE:
            self._stamp(path, remote.entry(name))

    def push_aside(self, paths: Sequence[Path]) -> bool:
        """Upload what is new of some files, in their order, while the caller goes on; each is tried once.

        What ``push`` sends comes behind them. Returns False, and does nothing, while earlier ones are on their way: a
        store that does not answer keeps a try waiting for minutes.
        """
        if self._aside is not None and self._aside.is_alive():
            return False

        def send() -> None:
            with suppress(RaykdError, OSError):  # the next push says what is wrong with the store
                for path in paths:
                    if path.is_file() and not self._is_uploaded(path, None):
                        self.push_file(path, path.relative_to(self.local).as_posix(), once=True)

        self._aside = threading.Thread(target=send, name="raykd-push", daemon=True)
        self._aside.start()
        return True

    def _is_uploaded(self, path: Path, there: Entry | None) -> bool:
        """Tell whether the store has this file, or one of the same name from others meanwhile."""
        found = path.stat()
        if self._sent.get(path) == (found.st_size, found.st_mtime_ns):
            return True
        if there is None or path.suffix in _MUTABLE:
            return False
        return _is_copy(path, there) or (there.size == found.st_size and found.st_mtime_ns < self._began)

    def _stamp(self, path: Path, entry: Entry) -> None:
        os.utime(path, (entry.written, entry.written))
        self._sent[path] = (entry.size, entry.written * 10**9)

    def _is_older(self, name: str, there: Collection[str]) -> bool:
        """Tell whether the record of a search there is damaged, or not newer than the one here."""
        here = self.local / name / REPORT
        if REPORT not in there or not here.is_file():
            return False
        there_at, here_at = _updated(self.remote.read(f"{name}/{REPORT}") or b""), _updated(here.read_bytes())
        return there_at is None or (here_at is not None and there_at <= here_at)


def _updated(record: bytes) -> float | None:
    """Return when a search's record was written; None if it is damaged."""
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        return float(parse_json(record)["updated"])
    return None


def _is_copy(path: Path, entry: Entry) -> bool:
    """Tell whether a file here is the one there: of its size, and stamped with its time."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_size, found.st_mtime_ns) == (entry.size, entry.written * 10**9)


def _upload_order(path: str) -> tuple[int, str]:
    """Order files so that one that vouches for others comes behind them."""
    return {MANIFEST: 1, STATUS: 2, REPORT: 2}.get(PurePosixPath(path).name, 0), path


def _stays_here(path: Path) -> bool:
    """Tell whether a file of a run is of this machine alone: a tracker's, whose package removes some at any time."""
    return path.parts[0] == TRACKED or any(part.startswith(".") for part in path.parts)


def _manifests_in(folder: Path) -> list[str]:
    """Return the manifests of checkpoints whose files are all here: those of other workers may never have been."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.glob(f"{CHECKPOINTS}/*/{MANIFEST}")
        if has_all_files(path.parent)
    ]


def _replaced_parts(folder: Path, there: Collection[str], here: Collection[str]) -> list[str]:
    """Return files of a pool there that no checkpoint here names: of what was trained again, and cut otherwise.

    None where the newest checkpoint is not here; none of a later step than the newest there, whose own checkpoint may
    be on its way.
    """
    parts = {path: step_of_part(PurePosixPath(path).name) for path in there if path.startswith(f"{POOL}/")}
    newest = _last_step(there)
    if not parts or newest > _last_step(here):
        return []
    named = set[str]()
    for path in here:
        if path.startswith(f"{CHECKPOINTS}/") and path.endswith(f"/{MANIFEST}"):
            try:
                named |= pool_files((folder / path).parent).keys()
            except CorruptError:
                return []
    old = [path for path, step in parts.items() if step is not None and step <= newest and path not in here]
    return [path for path in old if PurePosixPath(path).name not in named]


def _last_step(paths: Collection[str]) -> int:
    """Return the step of the newest checkpoint that has a manifest, or -1."""
    folders = [path.parent for path in map(PurePosixPath, paths) if path.name == MANIFEST]
    saved = [folder for folder in folders if folder.parent == PurePosixPath(CHECKPOINTS) and is_checkpoint(folder)]
    return max(map(step_of, saved), default=-1)
