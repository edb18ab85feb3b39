"""Removing a run so that it is never half there.

It is moved aside in one move, into ``.removed`` of its store, and deleted there. A process that is killed leaves it
there, where nobody takes it for a run, and the next run that begins in the store sweeps it away (``Workspace.sweep``).
"""

import os
import shutil
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from raykd.errors import InProgress, SetupError
from raykd.files import describe, is_old, make_folder, refuse_links_out, writing
from raykd.store.run_directory import RunDirectory

REMOVED = ".removed"
_TRIES = 3
_MOST_BYTES = 200


def remove_run(run: RunDirectory) -> None:
    """Remove the directory of a run; links in it are removed, not what they lead to.

    Raises:
        InProgress: if another process holds it, or has removed it; or may hold it, where locks are unknown.
        SetupError: if the disk does not let it be removed; it is whole then, or moved aside.
    """
    store = run.path.parent
    shortened = os.fsdecode(os.fsencode(run.path.name)[:_MOST_BYTES])  # a name may be as long as a disk takes
    aside = store / REMOVED / f"{shortened}-{uuid.uuid4().hex[:8]}"
    refuse_links_out(store, [REMOVED])
    is_left = _is_left_alone(run)  # holding it may write there
    with ExitStack() as held:
        try:
            held.enter_context(run.held_to_remove())
        except FileNotFoundError:
            raise InProgress(f"{run.path} is gone: another process has removed it") from None
        held.enter_context(writing(f"into {store}"))
        if not run.is_held and not is_left:
            raise InProgress(
                f"whether a process is at run {run.name} cannot be told, since its file system knows no locks: end all "
                "that may be, and remove it once nothing was written there for a day"
            )
        _move(run.path, aside)
    _delete(aside)


def _is_left_alone(run: RunDirectory) -> bool:
    """Tell whether nothing was written for so long that no process is at a run: one at work notes its step there."""
    with suppress(OSError):  # a file that was there is gone, or a link leads nowhere
        return all(is_old(path) for path in run.path.iterdir())
    return False


def sweep_removed(store: Path) -> None:
    """Delete what processes that were killed have moved aside; where a disk refuses, it stays."""
    folder = store / REMOVED
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _move(path: Path, aside: Path) -> None:
    for left in reversed(range(_TRIES)):
        make_folder(aside.parent)
        try:
            path.rename(aside)
            return
        except FileNotFoundError:  # who sweeps has removed the folder just now
            if not left or not path.exists():
                raise


def _delete(folder: Path) -> None:
    """Delete a folder that was moved aside, which who sweeps may be at too."""

    def raise_others(_: Any, __: str, failure: Any) -> None:
        if not isinstance(failure[1], FileNotFoundError):
            raise failure[1]

    try:
        shutil.rmtree(folder, onerror=raise_others)
        if not os.listdir(folder.parent):
            folder.parent.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SetupError(
            f"the run is removed, and what is left of it in {folder} cannot be deleted ({describe(error)}): delete it"
        ) from None
