"""What the command line does, as functions: ``import raykd``, then ``raykd.train("dafl_digits")``.

Runs land in the same run directories, so a program and a shell go on with each other's. What is wrong is raised as a
``RaykdError`` whose text says what to do. A program's process stays as it is: its threads, its random numbers, its
environment, its arithmetic's settings; ``tune_host=True`` lets a run set allocator, threads and matrix products for
speed.

Ctrl-C while a run goes on lets it save and raises ``Interrupted``; the same call goes on from there.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from raykd.cluster.config import Cluster, Site, choose_site
from raykd.config.data_root import data_folder, data_place
from raykd.config.overrides import Overrides, as_pairs
from raykd.distributed.host import preserved_process
from raykd.distributed.world import World
from raykd.engine import synthesis
from raykd.errors import UsageError
from raykd.models.in_memory import register
from raykd.models.student import Student
from raykd.planning.on_cluster import plan_on
from raykd.recipe.experiment import Experiment
from raykd.recipe.table import Table, load_table
from raykd.reporting.board import search_board
from raykd.reporting.progress import following
from raykd.reporting.seeds import over_seeds
from raykd.results import (
    Evaluation,
    ExportResult,
    Inspection,
    Plan,
    Ranking,
    RunResult,
    SearchResult,
    SeedsResult,
    StatisticsResult,
    SyntheticSet,
    TableResult,
)
from raykd.runners import train as train_runner
from raykd.runners import tune as tune_runner
from raykd.runners.interrupt import interruptible
from raykd.runners.pages import keep_seed_pages
from raykd.runners.report import write_report
from raykd.runners.table import fill_table
from raykd.search.setup import Search, plan_search
from raykd.search.space_file import load_space
from raykd.store.remote import join
from raykd.store.run_directory import STUDENT, RunDirectory
from raykd.store.workspace import Location, local_folder, location_of, pull_run
from raykd.tasks import ood as ranking
from raykd.tasks.evaluate import evaluate_run
from raykd.tasks.export import export_run
from raykd.tasks.inspect import inspect_teacher
from raykd.tasks.load import load_file, load_student
from raykd.tasks.objects import Images, Network, find_experiment, refuse_networks_of_this_process
from raykd.tasks.statistics import measure_statistics
from raykd.tasks.subject import network_in_memory, open_subject

STORE = Path("runs")
"""Where runs are, unless somebody says otherwise."""


def train(
    recipe: str | Path | Experiment,
    *,
    overrides: Overrides = (),
    seed: int | None = None,
    out: Location | None = None,
    cluster: str | Path | Cluster | None = None,
    data_root: Location | None = None,
    teacher: Network | None = None,
    student: Network | None = None,
    data: Images | None = None,
    ood: Images | None = None,
    progress: bool = True,
    should_stop: Callable[[], bool] | None = None,
    tune_host: bool = False,
) -> RunResult:
    """Train the student of a recipe, its teacher first if that is a run, and the recipe's controls after.

    The same call resumes a run that was stopped, and reads one that is finished.

    Args:
        recipe: a packaged name, a YAML file, or a resolved experiment, which takes none of the fields below.
        overrides: fields of the recipe.
        seed: of the recipe.
        out: store of the run directories, a folder or s3://BUCKET/FOLDER; default: the cluster's, else ``runs``.
        cluster: a name, a file or a Cluster; default: this process, without Ray.
        data_root: of data sets by name; default: the cluster's, else RAYKD_DATA.
        teacher: a recipe's name, a ``teacher`` section, or a network with its weights.
        student: a model's name, a ``student`` section, or a network. It starts from the weights that it has: seed torch
            before you make it, or the next start of your program is another run.
        data: a set's name or folder; or (images, labels) in memory, uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), or a
            torch Dataset of (image, label). Such are the test set of a method that learns from no data, and else the
            set to train on, without a test; {"train": ..., "test": ..., "classes": [names]} says it in full. Networks
            are shown (x - mean) / std of images in [0, 1]: 0.5 and 0.5, unless the overrides say ``data.mean`` and
            ``data.std``.
        ood: likewise, images of another domain for methods that take such.
        progress: whether to tell on stderr how it goes.
        should_stop: asked about twice a second whether to save and stop; default: Ctrl-C asks for it.
        tune_host: whether allocator, threads and matrix products of this process may be set for speed.

    Networks and images in memory are kept in the store, weights and all, so the run directory has what it needs. Of a
    network whose class other processes cannot import, they want the network again.

    Raises:
        Interrupted: once a stop was asked for and the run has saved.
        RaykdError: for what the caller must mend.
    """
    site = choose_site(cluster, 0, out, data_root)
    experiment = find_experiment(
        recipe, overrides, seed, site, {"teacher": teacher, "student": student, "data": data, "ood": ood}
    )
    return _train(experiment, site, progress, should_stop, tune_host)


def train_seeds(recipe: str | Path | Experiment, seeds: int, **options: Any) -> SeedsResult:
    """Train a recipe with as many seeds, counting from its own; return the runs, their mean and deviation.

    Takes the options of ``train``, and raises what that raises.
    """
    _check_count("seeds", seeds)
    where = {name: options.pop(name, None) for name in ("cluster", "out", "data_root")}
    site = choose_site(where["cluster"], 0, where["out"], where["data_root"])
    given = {role: options.pop(role, None) for role in ("teacher", "student", "data", "ood")}
    first = find_experiment(recipe, options.pop("overrides", ()), options.pop("seed", None), site, given)
    how = {"progress": True, "should_stop": None, "tune_host": False, **options}
    results = [_train(first.with_seed(first.recipe.seed + index), site, **how) for index in range(seeds)]
    keep_seed_pages([one.run for one in results], site.store)
    return over_seeds(results)


def tune(
    space: str | Path | Search,
    *,
    overrides: Overrides = (),
    trials: int | None = None,
    out: Location | None = None,
    cluster: str | Path | Cluster | None = None,
    data_root: Location | None = None,
    progress: bool = True,
    should_stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """Search the recipes of a space, as parallel trials on Ray; the same call goes on where the last one stopped.

    Args:
        space: a name, a YAML file, or a search as it is planned, which takes no overrides and trials.
        overrides: fields of the recipe, fixed in all trials.
        trials: how many in all; default: the space's.
        out: store of the run directories; default: the cluster's, else ``runs``.
        cluster: a name, a file or a Cluster; default: Ray on this machine, a CPU for each trial.
        data_root: of data sets by name; default: the cluster's, else RAYKD_DATA.
        progress: whether to tell on stderr how it goes.
        should_stop: asked several times a second whether to save and stop; default: Ctrl-C asks for it.

    Raises:
        SearchStopped: once a stop was asked for and the trials at work have saved.
        RaykdError: for what the caller must mend.
    """
    _check_count("trials", trials)
    site = choose_site(cluster, 1, out, data_root)
    if isinstance(space, Search):
        if overrides or trials is not None:
            raise UsageError("a search is planned already: give overrides and trials with a space's name")
        planned = space
    else:
        planned = plan_search(load_space(str(space), as_pairs(overrides), trials), local_folder(site.store))
    board = search_board() if progress else nullcontext(lambda report: None)
    with preserved_process(), interruptible(should_stop) as stop, board as show:
        return tune_runner.search(
            planned, site.cluster, store=site.store, data_root=site.data_root, should_stop=stop, show=show
        )


def table(
    name: str | Path | Table,
    *,
    quick: bool = False,
    seeds: int | None = None,
    out: Location | None = None,
    cluster: str | Path | Cluster | None = None,
    data_root: Location | None = None,
    progress: bool = True,
    should_stop: Callable[[], bool] | None = None,
) -> TableResult:
    """Fill a published table by parallel trials on Ray; what the store holds already is read.

    Args:
        name: a packaged table, a YAML file, or a Table.
        quick: at the reduced budget that the table states.
        seeds: of every row; default: what the table says.
        out: store of the run directories; default: the cluster's, else ``runs``.
        cluster: a name, a file or a Cluster; default: Ray on this machine, a CPU for each trial.
        data_root: of data sets by name; default: the cluster's, else RAYKD_DATA.
        progress: whether to tell on stderr how it goes.
        should_stop: asked several times a second whether to save and stop; default: Ctrl-C asks for it.

    Raises:
        BatchStopped: once a stop was asked for and the trials at work have saved.
        RaykdError: for what the caller must mend; a run that fails is told of in the table.
    """
    _check_count("seeds", seeds)
    site = choose_site(cluster, 1, out, data_root)
    filled = name if isinstance(name, Table) else load_table(str(name))
    with preserved_process(), interruptible(should_stop) as stop:
        return fill_table(
            filled,
            site.cluster,
            quick=quick,
            seeds=seeds,
            store=site.store,
            data_root=site.data_root,
            should_stop=stop,
            progress=progress,
        )


def plan(
    recipe: str | Path | Experiment,
    *,
    overrides: Overrides = (),
    cluster: str | Path | Cluster | None = None,
    data_root: Location | None = None,
) -> Plan:
    """Tell what training a recipe would take, by trying a few steps of its runs in processes of their own.

    Args:
        recipe: a packaged name, a YAML file, or a resolved experiment.
        overrides: fields of the recipe.
        cluster: where it is to run; default: one process, without Ray.
        data_root: of data sets by name; default: the cluster's, else RAYKD_DATA.

    Raises:
        UsageError: if it cannot fit into a worker's memory, saying what would.
        RaykdError: as the run itself would.
    """
    site = choose_site(cluster, 0, None, data_root)
    experiment = find_experiment(recipe, overrides, None, site, {})
    refuse_networks_of_this_process(experiment)
    # Nothing is asked of an object store: a plan needs no credentials.
    root = local_folder(site.data_root) if site.data_root else None
    return plan_on(experiment, site.cluster, store=local_folder(site.store), data_root=root)


def evaluate(
    run: Location | RunResult,
    *,
    data_root: Location | None = None,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    allow_code: bool = False,
) -> Evaluation:
    """Measure the student of a run directory on the test split, beside its teacher where that is found.

    Args:
        run: the directory or its address, or what ``train`` returned.
        data_root: of data sets by name; default: RAYKD_DATA.
        teacher: the network in memory that the run was trained against, where it was one.
        student: likewise.
        allow_code: whether a ``factory`` that the run names may run; no need for what this user's recipes have named.

    Raises:
        UsageError: if it is no run, its student is code that is not allowed, or the test split is not there.
        CorruptError: if recipe, weights or data are damaged.
    """
    for network in (teacher, student):
        if network is not None:
            register(network)
    where = location_of(run)
    directory, root = pull_run(where, data_root or data_place())
    with preserved_process():
        found = evaluate_run(directory, root, World.current(), allow_code=allow_code)
    return replace(found, directory=str(where))


def export(
    run: Location | RunResult,
    out: str | Path,
    *,
    format: str = "onnx",
    int8: bool = False,
    data_root: Location | None = None,
    student: nn.Module | None = None,
    allow_code: bool = False,
) -> ExportResult:
    """Write the student of a finished run to a folder so that it runs without raykd, compared with it on images.

    Args:
        run: the directory or its address, or what ``train`` returned.
        out: a folder that is empty or not there.
        format: onnx, torch-export, safetensors or state-dict.
        int8: whether to quantise it to 8 bits too; of onnx.
        data_root: of data sets by name; default: RAYKD_DATA.
        student: a network of its architecture, where the run's was one in memory.
        allow_code: as ``evaluate``.

    Raises:
        RaykdError: for what the caller must mend, or if what was written answers differently.
    """
    directory, root = pull_run(location_of(run), data_root or data_place(), train=int8)
    if student is not None:
        register(student)
    with preserved_process():
        return export_run(directory, Path(out), root, World.current(), format, int8=int8, allow_code=allow_code)


def report(*where: Location | RunResult, out: str | Path | None = None, data_root: Location | None = None) -> Path:
    """Write a run, a search, a table, a store, or several runs beside each other as one HTML file; return that.

    Args:
        where: folders or addresses, or what ``train`` returned.
        out: the file; default: ``report.html`` in the folder, here of several and of what lies in an object store.
        data_root: of data sets by name, on which runs of earlier releases are measured by class; default: RAYKD_DATA.

    Raises:
        RaykdError: for what the caller must mend.
    """
    return write_report([location_of(one) for one in where], out, data_root or data_place())


def load(run: Location | RunResult, *, student: nn.Module | str | None = None, allow_code: bool = False) -> Student:
    """Return the student of a run as a network in evaluation mode, on the CPU. Needs nothing but the run directory.

    ``student.spec`` says how images are normalised, and ``student.classify(images)`` does it.

    Args:
        run: a run directory or its address, what ``train`` returned, or a ``student.safetensors`` by itself.
        student: the architecture, where the run's was a network in memory, or the file lies by itself: a network, or of
            a file a model's name.
        allow_code: as ``evaluate``.

    Raises:
        UsageError: if there is no student, or its architecture is not known.
        CorruptError: if what is there is damaged.
    """
    where = location_of(run)
    path = Path(where)
    if path.is_file():
        beside = RunDirectory(path.parent)
        if path.name != STUDENT or not beside.exists or student is not None:
            return load_file(path, student)
        return load_student(beside, allow_code=allow_code)
    if isinstance(student, str):
        raise UsageError(f"a run knows its student's architecture: {student!r} is for a file by itself")
    return load_student(pull_run(where, None)[0], student, allow_code=allow_code)


def inspect(
    teacher: Location | nn.Module,
    *,
    overrides: Overrides = (),
    data: Images | None = None,
    data_root: str | Path | None = None,
    store: str | Path = STORE,
    allow_code: bool = False,
) -> Inspection:
    """Tell what a teacher is worth before training: its size, accuracy, health, and whether it can be inverted.

    Args:
        teacher: a recipe, a YAML file with ``data`` and ``teacher``, a run directory, or a network in memory.
        overrides: fields of the recipe or the file.
        data: of a network in memory: what it knows; see ``train``, or a ``data`` section with ``mean`` and ``std``.
        data_root: of data sets by name; default: RAYKD_DATA.
        store: where runs of recipes are looked for.
        allow_code: as ``evaluate``, of a run directory.

    Raises:
        UsageError: if network, weights and data do not fit together.
        CorruptError: if weights or data are damaged.
    """
    with preserved_process():
        if not isinstance(teacher, nn.Module):
            if data is not None:
                raise UsageError(
                    "data says what a network in memory knows; of a recipe give overrides={'data.name': ...}"
                )
            return inspect_teacher(
                *open_subject(str(teacher), as_pairs(overrides), store, data_root, allow_code=allow_code)
            )
        if overrides:
            raise UsageError("overrides are fields of a recipe, and a network in memory has none: leave them out")
        with network_in_memory(teacher, data, data_root) as (subject, workspace):
            return inspect_teacher(subject, workspace)


def statistics(
    teacher: Location,
    *,
    overrides: Overrides = (),
    data: str | None = None,
    per_class: int = 100,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    store: str | Path = STORE,
    allow_code: bool = False,
) -> StatisticsResult:
    """Measure what a teacher's BatchNorm layers see of each class, into a file that ``calibration.file`` names.

    Args:
        teacher: a recipe, a YAML file with ``data`` and ``teacher``, or a run directory.
        overrides: fields of the recipe or the file.
        data: set whose train split is opened; default: the teacher's.
        per_class: images of each class.
        out: file; default: one in the current directory, named by teacher, data and number.
        data_root: of data sets by name; default: RAYKD_DATA.
        store: where runs of recipes are looked for.
        allow_code: as ``evaluate``, of a run directory.

    Raises:
        RaykdError: for what the caller must mend.
    """
    subject, workspace = open_subject(str(teacher), as_pairs(overrides), store, data_root, allow_code=allow_code)
    with preserved_process():
        return measure_statistics(subject, data, per_class, Path(out) if out else None, workspace)


def ood(
    teacher: Location,
    data: str,
    *,
    overrides: Overrides = (),
    images: int | None = None,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    store: str | Path = STORE,
    allow_code: bool = False,
) -> Ranking:
    """Rank images of another domain by how unsure a teacher is of them, into an index that ``data.ood_index`` names.

    Args:
        teacher: a recipe, a YAML file with ``data`` and ``teacher``, or a run directory.
        data: set whose train split has the images.
        overrides: fields of the recipe or the file.
        images: how many to choose; default: all, in order.
        out: file; default: one in the current directory, named by teacher and data.
        data_root: of data sets by name; default: RAYKD_DATA.
        store: where runs of recipes are looked for.
        allow_code: as ``evaluate``, of a run directory.

    Raises:
        RaykdError: for what the caller must mend.
    """
    subject, workspace = open_subject(str(teacher), as_pairs(overrides), store, data_root, allow_code=allow_code)
    with preserved_process():
        return ranking.rank(subject, data, images, Path(out) if out else None, workspace)


def synthesize(
    run: Location | RunResult,
    images: int,
    out: str | Path,
    *,
    data_root: str | Path | None = None,
    allow_code: bool = False,
) -> SyntheticSet:
    """Write images of a run's generators as a data set; the same call goes on with an unfinished one.

    Args:
        run: directory of a run that trained a bank or a generator beside its student, or of a student of a bank, or of
            one that has a pool of images.
        images: how many, all classes together.
        out: folder of the set; train on it by ``data.train=FOLDER``.
        data_root: of data sets by name; default: RAYKD_DATA.
        allow_code: as ``evaluate``.

    Raises:
        RaykdError: for what the caller must mend.
    """
    directory, _ = pull_run(location_of(run), None, checkpoints="all")
    with preserved_process():
        root = data_folder(data_root)
        return synthesis.synthesize(directory, images, Path(out), root, World.current(), allow_code=allow_code)


def _train(
    experiment: Experiment, site: Site, progress: bool, should_stop: Callable[[], bool] | None, tune_host: bool
) -> RunResult:
    cluster, elsewhere = site.cluster, site.cluster.address != "local"
    if cluster.workers != 0:
        refuse_networks_of_this_process(experiment)
    shown = following(experiment.runs, str(site.store), elsewhere=elsewhere) if progress else nullcontext()
    process = nullcontext() if tune_host else preserved_process()
    with process, interruptible(should_stop) as stop, shown:
        result = train_runner.train(
            experiment, cluster, store=site.store, data_root=site.data_root, should_stop=stop, tune_host=tune_host
        )
    return replace(result, directory=join(site.store, experiment.run_id))


def _check_count(name: str, count: int | None) -> None:
    if count is not None and count < 1:
        raise UsageError(f"{name} is {count}; it must be 1 or more")
