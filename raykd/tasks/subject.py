"""What TEACHER means to the verbs that look at one: a run, a file or a recipe."""

from collections.abc import Iterable
from pathlib import Path

from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.remote import is_remote
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import pull_run
from raykd.tasks.inspect import Subject, subject_of_file, subject_of_recipe, subject_of_run


def find_subject(source: str, overrides: Iterable[str], store: Path) -> Subject:
    """Return the teacher that a run directory, a YAML file of data and teacher, or a recipe stands for.

    Args:
        source: a path, an address, or a recipe's name.
        overrides: ``KEY=VALUE`` pairs, of a file or a recipe.
        store: where runs of recipes are looked for.

    Raises:
        UsageError: if there is none, or the overrides do not fit it.
        CorruptError: if the run is damaged.
    """
    pairs = list(overrides)
    path = pull_run(source, None)[0].path if is_remote(source) else Path(source)
    if path.is_dir():
        if pairs:
            raise UsageError(f"a run is what it is: {pairs[0]!r} cannot be set for a run directory")
        return subject_of_run(RunDirectory(path))
    if path.is_file():
        subject = subject_of_file(path, pairs)
        if subject is not None:
            return subject
    return subject_of_recipe(resolve(load_recipe(source, pairs)), store)
