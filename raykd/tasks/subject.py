"""What TEACHER means to the verbs that look at one: a run, a file or a recipe."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from raykd.config.data_root import data_folder
from raykd.engine.build import build_spec
from raykd.errors import UsageError, masked
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.recipe.sections import TeacherConfig
from raykd.store.remote import is_remote
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace, pull_run
from raykd.tasks.inspect import Subject, subject_of_file, subject_of_recipe, subject_of_run
from raykd.tasks.objects import Images, data_section, network_section


def open_subject(
    source: str,
    overrides: Iterable[str],
    store: str | Path,
    data_root: str | Path | None,
    *,
    allow_code: bool = False,
) -> tuple[Subject, Workspace]:
    """Return a teacher, see ``find_subject``, and where its data and weights are.

    What the recipe of a run names in its store lies beside the run, wherever that was moved to.

    Raises:
        UsageError: as ``find_subject``, or if a folder is an object store.
        CorruptError: if the run is damaged.
    """
    if is_remote(store):
        raise UsageError(
            f"store is {masked(str(store))}, and this reads folders of this machine: give the address of a run in it"
        )
    data, folder = data_folder(data_root), Path(store).expanduser()
    subject = find_subject(source, overrides, folder, allow_code=allow_code)
    beside = folder if subject.run is None else subject.run.path.resolve().parent
    return subject, Workspace(data, beside)


def find_subject(source: str, overrides: Iterable[str], store: Path, *, allow_code: bool = False) -> Subject:
    """Return the teacher that a run directory, a YAML file of data and teacher, or a recipe stands for.

    Args:
        source: a path, an address, or a recipe's name.
        overrides: ``KEY=VALUE`` pairs, of a file or a recipe.
        store: where runs of recipes are looked for.
        allow_code: whether code that a run directory names may run.

    Raises:
        UsageError: if there is none, or the overrides do not fit it.
        CorruptError: if the run is damaged.
    """
    pairs = list(overrides)
    path = pull_run(source, None)[0].path if is_remote(source) else Path(source)
    if path.is_dir():
        if pairs:
            raise UsageError(f"a run is what it is: {pairs[0]!r} cannot be set for a run directory")
        return subject_of_run(RunDirectory(path), allow_code=allow_code)
    if path.is_file():
        subject = subject_of_file(path, pairs)
        if subject is not None:
            return subject
    return subject_of_recipe(resolve(load_recipe(source, pairs)), store)


@contextmanager
def network_in_memory(
    network: nn.Module, data: Images | None, data_root: str | Path | None
) -> Iterator[tuple[Subject, Workspace]]:
    """Yield a teacher that a program holds, and where its files are meanwhile; ``data`` is what it knows.

    Raises:
        UsageError: if network and data do not fit together.
    """
    if data is None:
        raise UsageError("what does the network know? Give data=NAME, a section, or (images, labels)")
    with TemporaryDirectory(prefix="raykd-inspect-") as folder:
        workspace = Workspace(data_folder(data_root), Path(folder))
        section = data_section(data, workspace)
        named = network_section(network, build_spec(section, workspace), workspace)
        yield Subject(section, TeacherConfig(**named)), workspace
