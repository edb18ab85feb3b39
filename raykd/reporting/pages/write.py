"""Writing pages: which folder is what, and where its page goes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raykd.errors import CorruptError, UsageError
from raykd.files import make_folder, parse_content, read_json, write_text, writing
from raykd.reporting.pages.comparison_page import comparison_page
from raykd.reporting.pages.facts import RunFacts, read_run
from raykd.reporting.pages.run_page import run_page
from raykd.reporting.pages.search_page import search_page
from raykd.reporting.pages.session_page import session_page
from raykd.reporting.pages.store_page import store_page
from raykd.reporting.pages.table_page import table_page
from raykd.results import Breakdown, DistillResult, SearchRecord, SearchResult, TableResult
from raykd.store.mirror import REPORT, SESSION, TABLE, TRIALS
from raykd.store.run_directory import PAGE, RunDirectory, runs_in

_ADVICE = "run the same search or table again, or restore it from a backup"
_FOLDERS = {"searches": "Searches", "tables": "Tables"}


def write_run(run: RunDirectory, out: Path | None = None, breakdowns: Mapping[str, Breakdown] | None = None) -> Path:
    """Write the page of a run, by default into its directory; return where it is.

    ``breakdowns`` stand for those that the run has noted.

    Raises:
        UsageError: if it is no run directory.
        CorruptError: if its record is damaged.
        SetupError: if the disk does not take it.
    """
    run.require()
    page, facts = out or run.page, read_run(run)
    if breakdowns is not None:
        facts = replace(facts, breakdowns=breakdowns)
    return _write(page, run_page(facts, page.absolute().parent, _called(run.path)))


def write_comparison(runs: Sequence[RunDirectory], out: Path) -> Path:
    """Write the page of several runs; see ``write_run``."""
    return _write(out, comparison_page([_read(run) for run in runs], out.absolute().parent))


def write_search(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a search, by default into its folder; return where it is.

    Raises:
        CorruptError: if what is kept of it is damaged.
        SetupError: if the disk does not take it.
    """
    found = read_json(folder / REPORT, _ADVICE)
    report: SearchResult = parse_content(folder / REPORT, _ADVICE, lambda: SearchResult.from_dict(found))
    page, record = out or folder / PAGE, None
    if (folder / TRIALS).is_file():
        kept = read_json(folder / TRIALS, _ADVICE)
        record = parse_content(folder / TRIALS, _ADVICE, lambda: SearchRecord.from_dict(kept))
    store = folder.absolute().parent.parent
    return _write(page, search_page(report, record, store, page.absolute().parent, _called(folder)))


def write_table(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a table, by default into its folder; return where it is.

    Raises:
        CorruptError: if what is kept of it is damaged.
        SetupError: if the disk does not take it.
    """
    found = read_json(folder / TABLE, _ADVICE)
    report: TableResult = parse_content(folder / TABLE, _ADVICE, lambda: TableResult.from_dict(found))
    page = out or folder / PAGE
    return _write(page, table_page(report, folder.absolute().parent.parent, page.absolute().parent))


def write_session(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a session of `raykd distill`, by default into its folder; return where it is.

    Raises:
        UsageError: if it is not finished.
        CorruptError: if what is kept of it is damaged.
        SetupError: if the disk does not take it.
    """
    found = read_json(folder / SESSION, _ADVICE).get("result")
    if found is None:
        raise UsageError(f"session {folder.name} is not finished: the command that began it goes on with it")
    result: DistillResult = parse_content(folder / SESSION, _ADVICE, lambda: DistillResult.from_dict(found))
    page, store = out or folder / PAGE, folder.absolute().parent.parent
    runs = [RunDirectory(store / one.run) for one in result.candidates if one.step]
    facts = [read_run(run) for run in runs if run.exists]
    return _write(page, session_page(result, facts, page.absolute().parent))


def write_store(store: Path, out: Path | None = None) -> Path:
    """Write the page of a store, by default into its folder; return where it is.

    Raises:
        SetupError: if the disk does not take it.
    """
    page = out or store / PAGE
    facts: list[RunFacts] = []
    damaged = {}
    for run in runs_in(store):
        try:
            facts.append(read_run(run))
        except (UsageError, CorruptError) as error:
            damaged[run.name] = str(error)
    others = {title: sorted(store.glob(f"{name}/*/{PAGE}")) for name, title in _FOLDERS.items()}
    start = page.absolute().parent
    return _write(page, store_page(os.path.basename(store.absolute()), facts, damaged, others, start))


def write_any(
    folders: Sequence[Path], out: Path | None = None, breakdowns: Mapping[str, Breakdown] | None = None
) -> Path:
    """Write the page of what the folders are: a run, several, a search, a table or a store; return where it is.

    ``breakdowns`` are of a run, where that is what there is.

    Raises:
        UsageError: if they are none of these, or several that are not all runs.
        RaykdError: as the others.
    """
    if len(folders) > 1:
        for folder in folders:
            RunDirectory(folder).require()
        return write_comparison([RunDirectory(folder) for folder in folders], out or Path(PAGE))
    (folder,) = folders
    if RunDirectory(folder).exists:
        return write_run(RunDirectory(folder), out, breakdowns)
    for name, write in ((REPORT, write_search), (TABLE, write_table), (SESSION, write_session)):
        if (folder / name).is_file():
            return write(folder, out)
    if folder.is_dir() and (runs_in(folder) or any((folder / name).is_dir() for name in _FOLDERS)):
        return write_store(folder, out)
    what = "has no run, search or table" if folder.is_dir() else "does not exist"
    raise UsageError(
        f"{folder} {what}: give the directory of a run, a search or a table, as their commands have printed it, or a "
        "store of runs"
    )


def _called(folder: Path) -> str:
    """Return how a folder is called on a page: from here, or by its name alone, since a page may go anywhere."""
    whole = folder.absolute()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else whole.name


def _read(run: RunDirectory) -> RunFacts:
    run.require()
    return read_run(run)


def _write(page: Path, content: str) -> Path:
    with writing(f"the report {page}"):
        make_folder(page.parent)
        # Names of folders, and text of damaged files, need be no UTF-8.
        write_text(page, content.encode(errors="backslashreplace").decode())
    return page
