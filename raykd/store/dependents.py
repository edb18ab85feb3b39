"""What of a store builds on which runs, and what each holds on the disk."""

from collections.abc import Iterator, Mapping

from raykd.recipe.experiment import Experiment
from raykd.results import Dependent, RunUsage, StoredSearch, StoreUsage
from raykd.store.checkpoint import POOL
from raykd.store.inventory import SETS, WEIGHTS, Inventory, RunRecord, StoredFile, size_of_files
from raykd.store.run_directory import BANK, BREAKDOWN, CHECKPOINTS, PAGE, SAMPLES, TENSORBOARD, TRACKED

_FOLDERS = (CHECKPOINTS, SAMPLES, POOL, BANK, TENSORBOARD)
_REPORTS = (PAGE, BREAKDOWN)


def dependents_of(inventory: Inventory) -> dict[str, list[Dependent]]:
    """Return what of a store builds on each run or was made of it, by the run's id.

    Those are runs that it is the teacher, the generators, a referee or a control of, searches and tables that name it,
    and sets of its images. Runs, searches and tables that are damaged do not tell: see ``untold_of``.
    """
    found: dict[str, list[Dependent]] = {run.name: [] for run in inventory.runs}
    for run in inventory.runs:
        for name, role in _built_upon(run.experiment) if run.experiment is not None else ():
            found.setdefault(name, []).append(Dependent("run", run.name, role))
    stems: dict[str, list[str]] = {}
    for run in inventory.runs:
        stems.setdefault(_stem(run.name), []).append(run.name)
    for made in (*inventory.searches, *inventory.tables):
        is_search = isinstance(made.row, StoredSearch)
        kind, own = ("search", made.row.search) if isinstance(made.row, StoredSearch) else ("table", made.row.table)
        # A trial names its first run, whose seeds it has too.
        named = [seed for name in made.runs or () for seed in (stems.get(_stem(name), []) if is_search else [name])]
        for name in dict.fromkeys(named):
            found.setdefault(name, []).append(Dependent(kind, own, "trial" if is_search else "row"))
    for folder in dict.fromkeys(path.partition("/")[0] for path in inventory.shared.get(SETS, {})):
        found.setdefault(folder.rpartition("-")[0], []).append(Dependent("set", f"{SETS}/{folder}", "generators"))
    return found


def untold_of(inventory: Inventory) -> dict[str, str]:
    """Return what may build on any run, since it is damaged, each with why."""
    found = {run.name: str(run.row.damaged) for run in inventory.runs if run.experiment is None}
    for made in (*inventory.searches, *inventory.tables):
        if made.runs is None:
            name = made.row.search if isinstance(made.row, StoredSearch) else made.row.table
            found[name] = str(made.row.damaged)
    return found


def store_usage(inventory: Inventory) -> StoreUsage:
    """Return what a store holds on the disk, and what builds on each of its runs."""
    dependents = dependents_of(inventory)
    runs = [run_usage(run, inventory, dependents) for run in inventory.runs]
    shared = {name: size_of_files(files.values()) for name, files in inventory.shared.items()}
    every = [file for run in inventory.runs for file in run.files.values()]
    every += [file for files in inventory.shared.values() for file in files.values()]
    return StoreUsage(inventory.location, runs, shared, size_of_files(every))


def run_usage(run: RunRecord, inventory: Inventory, dependents: Mapping[str, list[Dependent]]) -> RunUsage:
    """Return what a run holds on the disk, and what builds on it."""
    grouped: dict[str, list[StoredFile]] = {}
    for path, file in run.files.items():
        grouped.setdefault(_part_of(path), []).append(file)
    kept = inventory.shared.get(WEIGHTS, {})
    uses = [f"{WEIGHTS}/{sha256}.safetensors" for sha256 in sorted(run.weights or ())]
    return RunUsage(
        run=run.name,
        parts={part: size_of_files(files) for part, files in sorted(grouped.items())},
        size=run.row.size,
        dependents=dependents.get(run.name, []),
        uses=[name for name in uses if name.partition("/")[2] in kept],
    )


def _part_of(path: str) -> str:
    """Return what a file of a run is part of."""
    folder, slash, _ = path.partition("/")
    if slash and folder in _FOLDERS:
        return folder
    if slash and folder == TRACKED:
        return "tracker"
    if path.endswith(".safetensors"):
        return "weights"
    return "report" if path in _REPORTS else "records"


def _built_upon(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Yield the runs that one builds on, with what each is to it."""
    if experiment.teacher is not None:
        yield experiment.teacher.run_id, "teacher"
    if experiment.bank_id is not None:
        yield experiment.bank_id, "generators"
    yield from ((name, "referee") for name in experiment.referee_ids)
    yield from ((control.run_id, "control") for control in experiment.controls)


def _stem(run: str) -> str:
    return run.rpartition("-s")[0]
