"""What a store holds: its runs, searches, tables and shared files, also those that are damaged, with the bytes of all.

Nothing is changed. Of an object store the records alone are brought here, into a temporary folder.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from raykd.errors import CorruptError, SetupError, UsageError
from raykd.files import damaged, describe, parse_content, read_json
from raykd.recipe.experiment import Experiment
from raykd.recipe.sections import NetworkConfig, TeacherConfig
from raykd.results import RunResult, SearchRecord, SearchResult, StoredRun, StoredSearch, StoredTable, TableResult
from raykd.store.mirror import REPORT, TABLE, TRIALS
from raykd.store.remote import Remote, check_address, is_remote, join
from raykd.store.run_directory import ENVIRONMENT, EXPERIMENT, RECIPE, STATUS, RunDirectory
from raykd.store.status import FINISHED, check_number, parse_status, result_of
from raykd.store.workspace import STORED, Location, local_folder

KILLED, DAMAGED = "killed", "damaged"
SEARCHES, TABLES, WEIGHTS, SETS = "searches", "tables", "weights", "synthetic"
DISTILLATIONS = "distillations"
_SHARED = (SEARCHES, TABLES, WEIGHTS, SETS, DISTILLATIONS, "statistics", "logits", "data")
_RECORDS = (EXPERIMENT, RECIPE, STATUS, ENVIRONMENT)
_ADVICE = "restore it from a backup, or remove the run"
_Row = TypeVar("_Row", StoredRun, StoredSearch, StoredTable, StoredSearch | StoredTable)
_MADE = "run the same search or table again, or restore it from a backup"


class StoredFile(NamedTuple):
    """The bytes of a file, and what tells it from others: several names may lead to it."""

    size: int
    identity: object


Files = Mapping[str, StoredFile]
"""The files of a folder by their paths in it."""


@dataclass(frozen=True)
class RunRecord:
    """A run as it is found in a store.

    Attributes:
        directory: where its records are read.
        row: what is shown of it.
        experiment: None where it is damaged.
        result: None of a run that is not finished, or where it is damaged.
        weights: sums of the files in ``weights`` that it uses; None where that cannot be told.
        files: all of its files.
    """

    directory: RunDirectory
    row: StoredRun
    experiment: Experiment | None
    result: RunResult | None
    weights: frozenset[str] | None
    files: Files

    @property
    def name(self) -> str:
        """Return the run's id."""
        return self.row.run


@dataclass(frozen=True)
class MadeOfRuns:
    """A search or a table as it is found in a store; ``runs`` are the ids that it names, None where it is damaged."""

    row: StoredSearch | StoredTable
    runs: tuple[str, ...] | None


@dataclass(frozen=True)
class Inventory:
    """What a store holds; ``shared`` are the files of the folders that belong to no run alone."""

    location: str
    runs: list[RunRecord]
    searches: list[MadeOfRuns]
    tables: list[MadeOfRuns]
    shared: Mapping[str, Files]

    def run(self, name: str) -> RunRecord:
        """Return the run of an id.

        Raises:
            UsageError: if the store has none of it.
        """
        for one in self.runs:
            if one.name == name:
                return one
        raise UsageError(f"{join(self.location, name)} is no run; give the directory that `raykd train` printed")


def size_of_files(files: Iterable[StoredFile]) -> int:
    """Return the bytes of files; what has several names counts once."""
    return sum(dict((one.identity, one.size) for one in files).values())


def take_inventory(location: Location, only: str | None = None) -> Inventory:
    """Return what a store holds.

    Args:
        location: of the store.
        only: the id of a run, of which alone is asked: what builds on it is not found then.

    Raises:
        UsageError: if there is no such folder, or it is a run, or an address is none.
        SetupError: if an object store does not answer, or a folder goes away or may not be read.
    """
    if is_remote(location):
        address = check_address(str(location))
        with tempfile.TemporaryDirectory(prefix="raykd-records-") as name:
            folder = Path(name)
            found = _take(address, folder, _fetch_records(Remote(address), folder, only), is_here=False)
        return replace(
            found,
            runs=[replace(one, row=_called(one.row, folder, address)) for one in found.runs],
            searches=[replace(one, row=_called(one.row, folder, address)) for one in found.searches],
            tables=[replace(one, row=_called(one.row, folder, address)) for one in found.tables],
        )
    folder = local_folder(location)
    if not folder.is_dir():
        raise UsageError(f"{location} does not exist; give a store: the folder that runs lie in, such as runs")
    folders = [path for path in _folders_of(folder) if only in (None, path.name)]
    if RunDirectory(folder).exists:
        raise UsageError(f"{location} is a run; give the store that it lies in, {folder.parent}")
    found = _take(str(location), folder, {path.name: _files_below(path) for path in folders}, is_here=True)
    if not folder.is_dir():  # what was read of it is not all
        raise SetupError(f"{location} is gone: it was moved or removed, or its storage was; bring it back")
    return found


def take_run(where: Location, *, alone: bool) -> tuple[Inventory, RunRecord]:
    """Return a run, and its store; ``alone``: without what else is there.

    Raises:
        UsageError: if it is none.
        SetupError: if an object store does not answer.
    """
    store, name = store_and_name(where)
    if not is_remote(where) and not Path(store).is_dir():
        raise UsageError(f"{where} does not exist; give the directory that `raykd train` printed")
    inventory = take_inventory(store, name if alone else None)
    return inventory, inventory.run(name)


def store_and_name(where: Location) -> tuple[Location, str]:
    """Return the store of a run, and the run's id."""
    if is_remote(where):
        bare, mark, options = check_address(str(where)).partition("?")
        folder, _, name = bare.rstrip("/").rpartition("/")
        return folder + mark + options, name
    path = Path(where)
    path = path.resolve() if path.name in ("", "..") else path
    return path.parent, path.name


def _folders_of(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise SetupError(f"{error.filename} cannot be read ({describe(error)}); ask its owner") from None


def _files_below(folder: Path) -> dict[str, StoredFile]:
    """Return the files of a folder, none where it is a link: those belong to where they lie.

    Raises:
        SetupError: if it belongs to no run, and a part of it cannot be read: there may be what builds on any run.
    """
    found: dict[str, StoredFile] = {}
    if folder.is_symlink():
        return found

    def refuse(error: OSError) -> None:
        if folder.name in _SHARED and not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise SetupError(f"{error.filename} cannot be read ({describe(error)}); ask its owner") from None

    for parent, _, names in os.walk(folder, onerror=refuse):
        for path in (Path(parent, name) for name in names):
            try:
                state = path.lstat()
            except OSError:  # removed meanwhile, by a run at work
                continue
            found[path.relative_to(folder).as_posix()] = StoredFile(state.st_size, (state.st_dev, state.st_ino))
    return found


def _fetch_records(remote: Remote, folder: Path, only: str | None) -> dict[str, Files]:
    """Bring the records of all runs, searches and tables into a folder; return all files by the folders there."""
    found: dict[str, Files] = {}
    for name in remote.folders() if only is None else [only]:
        if name.startswith("."):
            continue
        entries = remote.entries(name)
        found[name] = {path: StoredFile(entry.size, (name, path)) for path, entry in entries.items()}
        wanted = {SEARCHES: (REPORT, TRIALS), TABLES: (TABLE,)}.get(name)
        for path in entries:
            if path in _RECORDS if wanted is None else PurePosixPath(path).name in wanted:
                remote.fetch(f"{name}/{path}", folder / name / path)
    return found


def _called(row: _Row, folder: Path, address: str) -> _Row:
    """Return a row whose text names files by where they lie in the object store."""
    return replace(row, damaged=row.damaged and row.damaged.replace(str(folder), address))


def _take(location: str, folder: Path, found: Mapping[str, Files], *, is_here: bool) -> Inventory:
    runs = [
        _read_run(RunDirectory(folder / name), files, is_here)
        for name, files in found.items()
        if name not in _SHARED and _may_be_run(folder / name)
    ]
    runs = [one for one in runs if os.path.lexists(one.directory.path)]  # others were removed meanwhile
    shared = {name: found[name] for name in _SHARED if name in found}
    searches = _read_made(folder / SEARCHES, shared.get(SEARCHES, {}), _read_search)
    tables = _read_made(folder / TABLES, shared.get(TABLES, {}), _read_table)
    return Inventory(location, runs, searches, tables, shared)


def _may_be_run(folder: Path) -> bool:
    try:
        return any((folder / record).is_file() for record in _RECORDS)
    except OSError:  # somebody else's, who lets nobody look into it
        return True


def _read_run(run: RunDirectory, files: Files, is_here: bool) -> RunRecord:
    faults: list[str] = []
    experiment = _tried(faults, run.experiment)
    status = _tried(faults, lambda: _read_status(run)) or {}
    result = _tried(faults, lambda: _read_result(run, status, files))
    weights = _tried(faults, lambda: _weights_of(run, experiment))
    state = status.get("state", "unknown")
    if faults:
        state = DAMAGED
    elif state == "running" and is_here and run.is_left and _state_now(run) == state:
        state = KILLED
    recipe = experiment.recipe if experiment is not None else None
    blind = result.blind if result is not None else None
    row = StoredRun(
        run=run.path.name,
        state=state,
        method=None if recipe is None else recipe.method.name,
        teacher=None if experiment is None else _teacher_of(experiment),
        student=None if recipe is None else _network_name(recipe.student),
        step=status.get("step"),
        top1=None if blind is None else blind.top1,
        agreement=None if blind is None else blind.agreement,
        seconds=None if result is None else result.seconds,
        ended=None if state in ("running", "unknown") else status.get("updated"),
        size=size_of_files(files.values()),
        damaged="; ".join(faults) or None,
    )
    return RunRecord(run, row, experiment, result, weights, files)


def _state_now(run: RunDirectory) -> str | None:
    """Return the state in a run's status; None where that is damaged.

    A run may have ended between the look at its status and that at its lock: then it was left, not killed.
    """
    status: dict[str, str] = _tried([], lambda: _read_status(run)) or {}
    return status.get("state")


def _tried(faults: list[str], read: Callable[[], Any]) -> Any:
    """Return what is read, None where it is damaged or may not be read, which is kept, once."""
    try:
        return read()
    except (CorruptError, UsageError) as error:
        faults.append(str(error))
    except OSError as error:
        text = f"{error.filename} cannot be read ({describe(error)}); ask its owner"
        faults += [] if text in faults else [text]
    return None


def _read_status(run: RunDirectory) -> dict[str, Any]:
    file = run.path / STATUS
    try:
        found = read_json(file, _ADVICE)
    except FileNotFoundError:
        return {}
    status = parse_status(json.dumps(found))
    if found and not status:
        raise damaged(file, "it holds what no run writes", _ADVICE)
    return status


def _read_result(run: RunDirectory, status: Mapping[str, Any], files: Files) -> RunResult | None:
    file = run.path / STATUS
    result: RunResult | None = parse_content(file, _ADVICE, lambda: result_of(run.path.name, status))
    if status.get("state") == FINISHED and result is None:
        raise damaged(file, "its result is missing", _ADVICE)
    if result is not None and "student_sha256" in status and files and run.student.name not in files:
        raise damaged(run.student, "it is missing", _ADVICE)
    return result


def _weights_of(run: RunDirectory, experiment: Experiment | None) -> frozenset[str] | None:
    """Return the sums of the shared weights that a run uses: its teacher's, and networks that lay in memory."""
    if experiment is None:
        return None
    try:
        teacher = read_json(run.path / ENVIRONMENT, _ADVICE).get("teacher_sha256")
    except FileNotFoundError:
        teacher = None
    named = [section.weights.removeprefix(STORED) for section in experiment.networks if section.weights]
    return frozenset([*named, *([str(teacher)] if teacher else [])])


def _teacher_of(experiment: Experiment) -> str | None:
    source = experiment.teacher
    return _network_name(experiment.recipe.teacher if source is None else source.recipe.student)


def _network_name(section: NetworkConfig | TeacherConfig | None) -> str | None:
    return None if section is None else section.model or section.factory


def _read_made(folder: Path, files: Files, read: Callable[[Path, int], MadeOfRuns]) -> list[MadeOfRuns]:
    """Return the searches or tables of a folder, each with the bytes of its files."""
    sizes: dict[str, int] = {}
    for path, file in files.items():
        name, _, rest = path.partition("/")
        if rest:
            sizes[name] = sizes.get(name, 0) + file.size
    return [read(folder / name, size) for name, size in sorted(sizes.items())]


def _read_search(folder: Path, size: int) -> MadeOfRuns:
    file, trials = folder / REPORT, folder / TRIALS
    if _is_unbegun(folder, (REPORT, TRIALS)):
        return MadeOfRuns(StoredSearch(search=folder.name, size=size), ())
    try:
        found = read_json(file, _MADE)
        report: SearchResult = parse_content(file, _MADE, lambda: SearchResult.from_dict(found))
        parse_content(file, _MADE, lambda: _check_figures(report))
        record = SearchRecord([], [], {})
        if trials.is_file():
            kept = read_json(trials, _MADE)
            record = parse_content(trials, _MADE, lambda: SearchRecord.from_dict(kept))
        named = (*(one.run for one in report.best), *(one.run for one in record.trials))
        runs = parse_content(file, _MADE, lambda: _run_ids(named))
    except (FileNotFoundError, CorruptError) as error:
        text = str(damaged(file, describe(error), _MADE)) if isinstance(error, FileNotFoundError) else str(error)
        return MadeOfRuns(StoredSearch(search=folder.name, size=size, damaged=text), None)
    objective = next(iter(report.objectives), None)
    row = StoredSearch(
        search=folder.name,
        recipe=report.recipe,
        trials=report.trials.ended,
        target=report.trials.target,
        objective=objective,
        best=report.best[0].values.get(objective) if report.best and objective is not None else None,
        updated=report.updated,
        size=size,
    )
    return MadeOfRuns(row, runs)


def _is_unbegun(folder: Path, records: Iterable[str]) -> bool:
    """Tell whether a search or a table was made of no run yet: it was stopped before it wrote any of its records."""
    return not any(os.path.lexists(folder / name) for name in records)


def _check_figures(report: SearchResult) -> None:
    """Refuse what is no number that a search writes; raises ValueError, naming one."""
    figures = {"updated": report.updated, **{name: value for one in report.best for name, value in one.values.items()}}
    for name, value in figures.items():
        if value is not None:
            check_number(name, value)


def _run_ids(named: Iterable[Any]) -> tuple[str, ...]:
    """Return the ids, each once, without those that are None; raises ValueError for what is no id."""
    found = [run for run in named if run is not None]
    if wrong := [run for run in found if not isinstance(run, str)]:
        raise ValueError(f"it names {str(wrong[0])[:40]}, which is no run")
    return tuple(dict.fromkeys(found))


def _read_table(folder: Path, size: int) -> MadeOfRuns:
    file = folder / TABLE
    if _is_unbegun(folder, (TABLE,)):
        return MadeOfRuns(StoredTable(table=folder.name, size=size), ())
    try:
        found = read_json(file, _MADE)
        report: TableResult = parse_content(file, _MADE, lambda: TableResult.from_dict(found))
        cells = [cell for row in report.rows for cell in row.cells.values()]
        runs = parse_content(file, _MADE, lambda: _run_ids(run for cell in cells for run in cell.runs or ()))
    except (FileNotFoundError, CorruptError) as error:
        text = str(damaged(file, describe(error), _MADE)) if isinstance(error, FileNotFoundError) else str(error)
        return MadeOfRuns(StoredTable(table=folder.name, size=size, damaged=text), None)
    counts = report.runs
    row = StoredTable(table=folder.name, title=report.title, finished=counts.finished, wanted=counts.wanted, size=size)
    return MadeOfRuns(row, runs)
