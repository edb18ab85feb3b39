"""What is left of a run that a search has given up."""

from raykd.distributed.world import World
from raykd.store.run_directory import read_status, write_status
from raykd.store.workspace import Workspace


def prune(workspace: Workspace, run: str) -> None:
    """Say of a run that it was given up, unless it is finished, and remove its checkpoints; its records stay."""
    alone = World.alone()
    workspace.pull([run], alone, checkpoints="none")
    if read_status(workspace.store / run).get("state") not in (None, "finished"):
        write_status(workspace.store / run, state="pruned")
        workspace.push(run, alone)
    workspace.remove(f"{run}/checkpoints")
