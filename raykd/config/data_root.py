"""Where data sets are looked for when nobody says: the environment's data root."""

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
    return of_cluster or os.environ.get("RAYKD_DATA") or None
