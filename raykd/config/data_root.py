"""Folders that the environment names: where data sets are looked for when nobody says, and what ``~`` stands for."""

import os
from pathlib import Path

from raykd.errors import UsageError, masked


def data_root() -> Path | None:
    """Return the folder of the data sets that the environment names.

    Raises:
        UsageError: if it names an object store, which what only reads folders cannot open.
    """
    root = data_place()
    if root and "://" in root:
        raise UsageError(
            f"RAYKD_DATA is {masked(root)!r}, and this command reads folders of this machine: copy what it needs and "
            "name the folder (train, tune, table and evaluate read object stores)"
        )
    return Path(root) if root else None


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
