"""What this process takes for granted of its surroundings: whose it is, where Python looks for modules, how it waits.

Python puts the folder of a program first, so a ``profile.py`` in it takes the place of the standard library's, which
torch imports. A user's folder belongs behind all that is installed, and there only while the user's own module of it is
imported. Nothing heavy is imported here.
"""

import getpass
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path


def library_folders() -> list[str]:
    """Return the folders of the standard library, in the order of ``sys.path``."""
    library = os.path.dirname(os.__file__)
    own = {library, os.path.join(library, "lib-dynload"), sysconfig.get_config_var("DESTSHARED")}
    return [folder for folder in sys.path if folder in own]


def put_library_first() -> None:
    """Move the standard library to the front of ``sys.path``."""
    library = library_folders()
    sys.path[:] = [*library, *(folder for folder in sys.path if folder not in library)]


def leave_working_directory() -> None:
    """Take the folder from ``sys.path`` that ``python -m`` has put first: a file in it may be anybody's."""
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]


@contextmanager
def folder_searched(folder: str, module_name: str) -> Iterator[None]:
    """Within, ``module_name`` can be imported: the installed one, else that of a user's folder.

    In the latter case what it imports may lie in the folder too, behind all that is installed. A module called like one
    of the standard library's is the folder's for who asks for it.
    """
    before = list(sys.path)
    put_library_first()
    finders: list[_FinderOfOne] = []
    top = module_name.partition(".")[0]
    if _is_of(folder, top):
        sys.path.append(folder)
        finders = [_FinderOfOne(top, folder)] if top in sys.stdlib_module_names else []
        sys.meta_path[:0] = finders
    during = list(sys.path)
    try:
        yield
    finally:
        added = [one for one in sys.path if one not in during]  # by the user's code
        sys.path[:] = [*added, *before]
        for finder in finders:
            sys.meta_path.remove(finder)


def find_module(name: str, folder: str) -> str | None:
    """Return the file of the module that is imported within ``folder_searched``, or None; nothing is imported here."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    top, *parts = name.split(".")
    spec = PathFinder.find_spec(top, [folder]) if _is_of(folder, top) else _find_installed(top)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        inner, path = f"{spec.name}.{part}", list(spec.submodule_search_locations)
        found = (finder.find_spec(inner, path) for finder in sys.meta_path)
        spec = next((one for one in found if one is not None), None)
    return None if spec is None else spec.origin


def _is_of(folder: str, top: str) -> bool:
    """Tell whether a module or package is a folder's, since it is installed nowhere."""
    own = PathFinder.find_spec(top, [folder])
    installed = _find_installed(top)
    if installed is None or installed.origin is None or own is None:  # no origin: no more than a folder of that name
        return own is not None
    was_imported = own.origin == installed.origin
    return was_imported or (top in sys.stdlib_module_names and own.origin is not None)


def _find_installed(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except ValueError:  # of a module without a spec, as the one that is run has none
        return None


class _FinderOfOne(MetaPathFinder):
    """Finds one module in a folder."""

    def __init__(self, name: str, folder: str) -> None:
        self._name, self._folder = name, folder

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [self._folder]) if fullname == self._name else None


def wait_policy() -> tuple[str, str]:
    """Return the variable by which OpenMP's threads wait, and what raykd sets it to unless the user has.

    Threads of torch that have no work spin by default, and take the cores from whoever else uses the machine: its own
    trials, a container's quota, other people. Passive ones sleep.
    """
    return "OMP_WAIT_POLICY", os.environ.get("OMP_WAIT_POLICY", "PASSIVE")


def wait_passively() -> None:
    """Let threads of this process, and of those that it starts, sleep while they wait; before torch is imported."""
    name, value = wait_policy()
    os.environ[name] = value


def name_user() -> None:
    """Give this process, and those that it starts, a user's name and a home where the system knows neither.

    So it is for a number without an entry among the users, as containers have it; Ray and torch's compiler ask for both
    and fail. The home is ``/``, as there: nothing of another user's can lie in it.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"
