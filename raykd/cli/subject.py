"""What TEACHER means on the command line: a run, a file or a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raykd.tasks.inspect import Subject

STORE = Path("runs")
"""Where runs of recipes are looked for."""


def subject_of(source: str, overrides: tuple[str, ...]) -> "Subject":
    """Return the teacher that a run directory, a YAML file of data and teacher, or a recipe stands for.

    Raises:
        UsageError: if there is none, or the overrides do not fit it.
        CorruptError: if the run is damaged.
    """
    from raykd.errors import UsageError
    from raykd.recipe.experiment import resolve
    from raykd.recipe.recipe import load_recipe
    from raykd.store.remote import is_remote
    from raykd.store.run_directory import RunDirectory
    from raykd.store.workspace import pull_run
    from raykd.tasks.inspect import subject_of_file, subject_of_recipe, subject_of_run

    path = pull_run(source, None)[0].path if is_remote(source) else Path(source)
    if path.is_dir():
        if overrides:
            raise UsageError(f"a run is what it is: {overrides[0]!r} cannot be set for a run directory")
        return subject_of_run(RunDirectory(path))
    if path.is_file():
        subject = subject_of_file(path, overrides)
        if subject is not None:
            return subject
    return subject_of_recipe(resolve(load_recipe(source, overrides)), STORE)
