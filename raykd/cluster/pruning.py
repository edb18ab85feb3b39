"""What is left of a run that a search has given up."""

from raykd.engine.report import read_status, write_status
from raykd.engine.roots import Roots
from raykd.parallel import World


def prune(roots: Roots, run: str) -> None:
    """Say of a run that it was given up, unless it is finished, and remove its checkpoints; its records stay."""
    alone = World.alone()
    roots.bring([run], alone, checkpoints="none")
    if read_status(roots.store / run).get("state") not in (None, "finished"):
        write_status(roots.store / run, state="pruned")
        roots.send(run, alone)
    roots.remove(f"{run}/checkpoints")
