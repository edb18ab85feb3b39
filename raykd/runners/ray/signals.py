"""Words between the driver and the workers of a job: a wish to stop, and errors, as small files that all see."""

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from raykd.engine.stop import TakenOver
from raykd.files import is_free, is_old, locked, write_text, writing
from raykd.store.remote import Remote, is_remote
from raykd.store.workspace import Location, local_folder

_STOP = "stop-request"
_TAKEN_OVER = "taken-over-"
_FOLDER = ".ray"
_DRIVER = ".driver"
"""The file of a job's folder that is locked for as long as its driver lives."""


class RunSignals:
    """The folder of one job in a store. It is opened on every node by its place; a copy of it may travel."""

    def __init__(self, store: Location, job: str) -> None:
        """Name it; nothing is opened or written yet."""
        self._store, self.job = str(store), job
        self._driver = ExitStack()

    def __getstate__(self) -> dict[str, str]:
        """Travel without connections."""
        return {"_store": self._store, "job": self.job}

    def __setstate__(self, state: dict[str, str]) -> None:
        """Arrive as the signals of a job that another process drives."""
        self.__init__(state["_store"], state["job"])  # type: ignore[misc]

    @cached_property
    def here(self) -> Path:
        """Return the job's folder on this node; of a store that is a path, all nodes see the same."""
        return local_folder(self._store) / _FOLDER / self.job

    @cached_property
    def _remote(self) -> Remote | None:
        return Remote(self._store, known=True) if is_remote(self._store) else None

    def open(self) -> None:
        """Make the folder, in the driver, and remove those of drivers that died.

        Raises:
            SetupError: if the disk does not take it.
        """
        made = self.here.with_name(f".{self.job}")  # nobody looks for it before it is locked
        with writing(f"signals into {self.here}"):
            made.mkdir(parents=True)
            self._driver.enter_context(locked(made / _DRIVER, wait=True))
            made.rename(self.here)
        for folder in self.here.parent.iterdir():
            if folder != self.here and _is_left(folder):
                self._remove(folder)

    def close(self) -> None:
        """Remove the folder, in the driver."""
        self._remove(self.here)
        self._driver.close()

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if self._remote is not None:
            self._remote.try_remove(f"{_FOLDER}/{folder.name}")

    def ask_to_stop(self) -> None:
        """Ask the workers to save and stop.

        Raises:
            SetupError: if a disk does not take it, or a store does not answer.
        """
        self._put(_STOP, "")

    def give_up(self, trial: str = "") -> None:
        """Ask the workers, or the process of one trial, to leave at once and to save nothing: another has the run.

        Raises:
            SetupError: if a disk does not take it, or a store does not answer.
        """
        self._put(f"{_TAKEN_OVER}{trial}", "")

    def stop_asked_for(self, trial: str = "") -> bool:
        """Tell whether the driver has asked for a stop; a store that does not answer has not.

        Raises:
            TakenOver: if it has given up the run, or that ``trial``.
        """
        names = self._names()
        if f"{_TAKEN_OVER}{trial}" in names:
            raise TakenOver
        return _STOP in names

    def record(self, rank: int, failure: Mapping[str, Any]) -> None:
        """Leave a worker's error for the others and for the driver.

        Raises:
            SetupError: if a disk does not take it, or a store does not answer.
        """
        self._put(f"error-{rank}.json", json.dumps(failure))

    def failures(self) -> list[dict[str, Any]]:
        """Return the errors that workers have left."""
        names = sorted(name for name in self._names() if name.startswith("error-"))
        found = []
        for name in names:
            remote = self._remote
            content = remote.read(self._there(name)) if remote else (self.here / name).read_bytes()
            found.append(json.loads(content or b"{}"))
        return found

    def _names(self) -> list[str]:
        if self._remote is None:
            return [path.name for path in self.here.glob("*")]
        return self._remote.try_list(f"{_FOLDER}/{self.job}")

    def _put(self, name: str, content: str) -> None:
        if self._remote is None:
            with writing(f"signals into {self.here}"):
                write_text(self.here / name, content)
        else:
            self._remote.write(self._there(name), content.encode())

    def _there(self, name: str) -> str:
        return f"{_FOLDER}/{self.job}/{name}"


def _is_left(folder: Path) -> bool:
    """Tell whether the driver of a job has died; where it has no lock (yet), whether it was made long ago."""
    try:
        if folder.name.startswith(".") or not (folder / _DRIVER).is_file():
            return is_old(folder)
        return is_free(folder / _DRIVER)
    except OSError:  # it is just being removed
        return False
