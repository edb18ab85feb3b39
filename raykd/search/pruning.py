"""What is left of a run that a search has given up."""

from raykd.distributed.world import World
from raykd.store.run_directory import CHECKPOINTS
from raykd.store.workspace import Workspace


def prune(workspace: Workspace, run_id: str) -> None:
    """Say of a run that it was given up, unless it is finished, and remove its checkpoints; its records stay."""
    alone, run = World.alone(), workspace.run(run_id)
    workspace.pull([run_id], alone, checkpoints="none")
    if run.status().get("state") not in (None, "finished"):
        run.write_status(state="pruned")
        workspace.push(run_id, alone)
    workspace.remove(f"{run_id}/{CHECKPOINTS}")
