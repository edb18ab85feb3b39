"""What may be removed of a store, and what speaks against it; see ``raykd.store.moved_aside``."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import CorruptError, InProgress, UsageError
from raykd.files import is_old
from raykd.results import Dependent
from raykd.store.dependents import dependents_of, untold_of
from raykd.store.inventory import WEIGHTS, Inventory, store_and_name
from raykd.store.remote import is_remote
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Location


@dataclass(frozen=True)
class Removal:
    """What is to be removed of a store, and what speaks against it.

    Attributes:
        names: of the runs.
        size: bytes of all their files.
        dependents: what else builds on each, by its id.
        untold: what may, since it is damaged, with why.
    """

    names: Sequence[str]
    size: int
    dependents: dict[str, list[Dependent]]
    untold: dict[str, str]

    def require_free(self) -> None:
        """Refuse where something else builds on the runs, or may.

        Raises:
            UsageError: naming it.
            CorruptError: naming what does not tell.
        """
        force = "remove that too, or give --force"
        for name, needed in self.dependents.items():
            listed = "; ".join(f"{one.kind} {one.name} (its {one.role})" for one in needed[:3])
            more = f" and {len(needed) - 3} more" if len(needed) > 3 else ""
            raise UsageError(f"{name} is needed by {listed}{more}: {force}")
        for name, why in self.untold.items():
            raise CorruptError(f"what {name} builds on cannot be told ({why}): {force}")


def plan_removal(inventory: Inventory, names: Sequence[str]) -> Removal:
    """Return what speaks against removing runs of a store; those that go together do not."""
    dependents = dependents_of(inventory)
    needed = {name: [one for one in dependents.get(name, []) if one.name not in names] for name in names}
    untold = {name: why for name, why in untold_of(inventory).items() if name not in names}
    size = sum(inventory.run(name).row.size for name in names)
    return Removal(names, size, {name: found for name, found in needed.items() if found}, untold)


def run_to_remove(where: Location) -> tuple[Path, str]:
    """Return the store and the name of a run that is to be removed.

    Raises:
        UsageError: if it is none, a link, or lies in an object store.
    """
    if is_remote(where):
        raise UsageError(
            f"{where} lies in an object store, which knows no locks: whether a machine is at work on it cannot be "
            "told, so remove it by the store's own tools"
        )
    store, name = store_and_name(where)
    path = Path(store) / name
    if path.is_symlink():
        raise UsageError(f"{where} is a link to {os.readlink(path)}: remove the link, or give the directory itself")
    run = RunDirectory(path)
    if not run.has_begun:  # of a damaged run that may be all that is left
        run.require()
    return path.parent, name


def unused_weights(inventory: Inventory, store: Path) -> Iterator[Path]:
    """Yield the files in ``weights`` that no run of a store uses; those of the last day stay.

    Networks that lay in memory are kept there before their run begins.

    Raises:
        CorruptError: if a run does not tell what it uses.
        InProgress: if a run is at work, which may not have told yet.
    """
    used: set[str] = set()
    for run in inventory.runs:
        if run.directory.is_held:
            raise InProgress(f"run {run.name} is in progress in another process: wait for it")
        if run.weights is None:
            raise CorruptError(f"which weights run {run.name} uses cannot be told: {run.row.damaged}")
        used |= run.weights
    for name in sorted(inventory.shared.get(WEIGHTS, {})):
        path = store / WEIGHTS / name
        is_ours = path.suffix == ".safetensors" and not name.startswith(".") and "/" not in name
        if is_ours and path.stem not in used and not path.is_symlink() and is_old(path):
            yield path
