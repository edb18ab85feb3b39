"""Pages of what a command has finished. They are by-products: one that cannot be written is a warning.

With ``RAYKD_REPORT=0`` in the environment none is written.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from raykd.errors import SetupError
from raykd.store.mirror import Mirror
from raykd.store.run_directory import STATUS, RunDirectory
from raykd.store.workspace import Location, Workspace, open_workspace

logger = logging.getLogger(__name__)

_SILENCE_SECONDS = 600.0
_silent_since: dict[str, float] = {}
"""When a store did not answer, by its address: for a while it is asked for no more pages."""


def keep_run_pages(run_ids: Iterable[str], workspace: Workspace, *, anew: bool = False) -> None:
    """Write the pages of finished runs of a store, those that are not there yet, or are older than the result.

    With ``anew`` all of them, as when they stand beside other seeds by now.
    """
    if int(os.environ.get("RANK", "0")):  # under torchrun one worker writes
        return
    for run_id in run_ids:
        run = workspace.run(run_id)
        if _is_finished(run) and (anew or not _has_page(run)):
            _keep(lambda run=run: _write_run(run, workspace), f"run {run_id}")  # type: ignore[misc]


def keep_seed_pages(run_ids: Sequence[str], store: Location) -> None:
    """Write the pages of all seeds of a recipe again: now they can tell of each other."""
    if len(run_ids) > 1:
        keep_run_pages(run_ids, open_workspace(store, None, known=True), anew=True)


def keep_search_page(folder: Path) -> None:
    """Write the page of a search into its folder."""

    def write() -> None:
        from raykd.reporting.pages.write import write_search

        write_search(folder)

    _keep(write, f"search {folder.name}")


def keep_table_page(folder: Path) -> None:
    """Write the page of a table into its folder."""

    def write() -> None:
        from raykd.reporting.pages.write import write_table

        write_table(folder)

    _keep(write, f"table {folder.name}")


def keep_session_page(folder: Path) -> None:
    """Write the page of a session of `raykd distill` into its folder."""

    def write() -> None:
        from raykd.reporting.pages.write import write_session

        write_session(folder)

    _keep(write, f"session {folder.name}")


def _write_run(run: RunDirectory, workspace: Workspace) -> None:
    from raykd.reporting.pages.write import write_run  # what draws takes half a second to be loaded

    page = write_run(run)
    if workspace.mirror is not None:
        _send(page, workspace.mirror)


def _send(page: Path, mirror: Mirror) -> None:
    """Upload a page in one try: a finished run does not wait minutes for it, nor once more for the next page."""
    address, now = mirror.remote.address, time.monotonic()
    if now - _silent_since.get(address, -math.inf) < _SILENCE_SECONDS:
        return
    try:
        mirror.push_file(page, page.relative_to(mirror.local).as_posix(), once=True)
    except SetupError as error:
        _silent_since[address] = now
        logger.warning("no %s goes to %s, they stay on this machine: %s", page.name, address, error)


def _is_finished(run: RunDirectory) -> bool:
    return run.has_begun and run.status().get("state") == "finished"


def _has_page(run: RunDirectory) -> bool:
    try:
        return run.page.stat().st_mtime >= (run.path / STATUS).stat().st_mtime
    except OSError:
        return False


def _keep(write: Callable[[], None], what: str) -> None:
    if os.environ.get("RAYKD_REPORT") != "0":
        keep_by_product(write, f"report.html of {what}")


def keep_by_product(write: Callable[[], None], what: str) -> None:
    """Write what nothing depends on; an error is a warning that there is no ``what``."""
    try:
        write()
    except Exception as error:  # whatever it is, what the by-product tells of is finished
        logger.warning("no %s: %s: %s", what, type(error).__name__, error)
        logger.debug("", exc_info=True)
