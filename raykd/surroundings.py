"""What this process takes for granted of its surroundings: whose it is, where Python looks for modules, how it waits.

Python puts the folder of a program first, so a ``profile.py`` in it takes the place of the standard library's, which
torch imports. A user's folder belongs behind the standard library and before all else. Nothing heavy is imported here.
"""

import getpass
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def folder_searched(folder: str, module_name: str) -> Iterator[None]:
    """Within, modules of a user's folder are found, behind the standard library and before all else.

    The one that is asked for comes from the folder even if it is called like one of the standard library's.
    """
    before = list(sys.path)
    put_library_first()
    top = os.path.join(folder, module_name.partition(".")[0])
    is_like_library = os.path.basename(top) in sys.stdlib_module_names
    is_own = is_like_library and (os.path.isfile(f"{top}.py") or os.path.isdir(top))
    sys.path.insert(0 if is_own else len(library_folders()), folder)
    during = list(sys.path)
    try:
        yield
    finally:
        added = [one for one in sys.path if one not in during]  # by the user's code
        sys.path[:] = [*added, *before]


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
