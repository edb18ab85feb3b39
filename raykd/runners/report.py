"""Write the page of what is asked for, wherever it lies. Importable without what draws."""

import logging
from collections.abc import Sequence
from pathlib import Path

from raykd.distributed.host import preserved_process
from raykd.distributed.world import World
from raykd.errors import RaykdError, UsageError
from raykd.results import Breakdown
from raykd.store.mirror import REPORT, SESSION, TABLE
from raykd.store.remote import check_address, is_remote
from raykd.store.run_directory import EXPERIMENT, PAGE, RECIPE, RunDirectory
from raykd.store.workspace import Location, open_workspace, pull_run
from raykd.tasks.evaluate import break_down_run

logger = logging.getLogger(__name__)

_KINDS = {EXPERIMENT, RECIPE, REPORT, TABLE, SESSION}
"""What tells that a folder is a run, a search, a table or a session."""


def write_report(places: Sequence[Location], out: str | Path | None, data_root: Location | None) -> Path:
    """Write the page of a run, several runs, a search, a table or a store; return the file.

    Args:
        places: folders or addresses.
        out: the file; default: in the folder, or here of several and of what lies in an object store.
        data_root: where a run's data is; a run that has not noted how its student answers is measured on it.

    Raises:
        UsageError: if they are none of these.
        CorruptError: if what is there is damaged.
        SetupError: if the disk does not take it, or an object store does not answer.
    """
    from raykd.reporting.pages.write import write_any  # what draws takes half a second to be loaded

    if not places:
        raise UsageError("nothing to report: give the directory of a run, a search or a table, or a store of runs")
    file = None if out is None else Path(out)
    if file is not None and file.is_dir():
        raise UsageError(f"{file} is a folder: give the name of a file, such as {file / PAGE}")
    if file is None and any(map(is_remote, places)):
        file = Path(PAGE)
    folders = [_pull(place) for place in places]
    return write_any(folders, file, _break_down(places[0], data_root) if len(places) == 1 else None)


def _pull(place: Location) -> Path:
    """Return a folder of a store on this machine, brought there if need be.

    Raises:
        UsageError: for a whole store elsewhere, of which all checkpoints would come along.
    """
    if not is_remote(place):
        return Path(place)
    bare, mark, options = check_address(str(place)).partition("?")
    store, _, name = bare.rstrip("/").rpartition("/")
    if store.endswith("/"):  # of a bucket without a folder
        raise _no_page_of(bare)
    workspace, alone = open_workspace(store + mark + options, None), World.alone()
    assert workspace.mirror is not None, "the place is an address"
    if not _KINDS & workspace.mirror.remote.entries(name, deep=False).keys():
        raise _no_page_of(bare)
    workspace.pull([name], alone, checkpoints="none")
    run = RunDirectory(workspace.store / name)
    if run.exists:
        workspace.pull(run.experiment().built_upon, alone, checkpoints="none")
    return run.path


def _no_page_of(address: str) -> UsageError:
    return UsageError(
        f"{address} is no run, search or table: in an object store name one of these, such as {address}/RUN; a whole "
        "store is reported where it is a folder"
    )


def _break_down(place: Location, data_root: Location | None) -> dict[str, Breakdown] | None:
    """Measure the student of a run that has not noted how it answers the test split; None where that cannot be."""
    here = RunDirectory(_pull(place))
    if not here.exists or here.breakdowns() or here.experiment().recipe.student is None:
        return None
    try:
        run, root = pull_run(place, data_root)
        with preserved_process():
            return break_down_run(run, root, World.current())
    except RaykdError as error:
        logger.info("no figures by class: %s", error)
        return None
