"""Folders that the environment names, what ``~`` stands for, and where the files are that a recipe names."""

import os
from pathlib import Path

from raykd.errors import UsageError, masked


def data_folder(given: str | Path | None = None) -> Path | None:
    """Return the folder of the data sets that a caller names, or else the environment.

    Raises:
        UsageError: if it is an object store, which what only reads folders cannot open.
    """
    root = given or data_place()
    if root and "://" in str(root):
        raise UsageError(
            f"{'data_root' if given else 'RAYKD_DATA'} is {masked(str(root))!r}, and this command reads folders of "
            "this machine: copy what it needs and name the folder (train, tune, table and evaluate read object stores)"
        )
    return Path(root).expanduser() if root else None


def data_place(of_cluster: str | None = None) -> str | None:
    """Return the data root of a cluster, or else that of the environment: a path, or an object store's address."""
    root = of_cluster or os.environ.get("RAYKD_DATA")
    if not root or "://" in root:
        return root or None
    return str(expanded(root, "data_root" if of_cluster else "RAYKD_DATA"))


def expanded(path: str | Path, source: str) -> Path:
    """Return a path with the folder that ``~`` stands for: an env file or a batch script has no shell that writes it.

    Args:
        path: the path.
        source: what a message says names it.

    Raises:
        UsageError: if nobody can tell which folder that is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, or no such user
        raise UsageError(
            f"{source} is {str(path)!r}, and no home is known here for its '~': write the whole path"
        ) from None


def find_file(name: str, root: Path | None, kind: str, advice: str) -> Path:
    """Return the file of that name in the current directory, or else under a data root.

    Args:
        name: a relative or absolute path.
        root: the data root, if there is one.
        kind: what a message calls such a file, as in ``weights file``.
        advice: what a user can do where there is none.

    Raises:
        UsageError: naming the places looked at.
    """
    places = [Path(name)] + ([root / name] if root else [])
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(map(str, places))
    raise UsageError(f"no {kind} {name!r} (looked at {looked}); {advice}")
