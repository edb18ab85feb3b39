"""A run that begins with what another has done: its checkpoint of a step, and its rows up to there."""

import os
import shutil
from pathlib import Path

from raykd.store.checkpoint import find_fault, write_text
from raykd.store.run_directory import rewind_metrics

_RECORDS = ("metrics.jsonl", "environment.json")


def fork(heir: Path, donor: Path, step: int) -> bool:
    """Let the run in ``heir`` go on from the ``step`` of the one in ``donor``, whose recipe is the same up to there.

    Files are linked where the file system can, since nobody writes into a checkpoint that is whole. Returns whether
    ``heir`` has a checkpoint now: without the donor's it trains those steps itself, to the same weights.
    """
    folder = heir / "checkpoints"
    if any(folder.glob("step_*")):
        return True
    source = donor / "checkpoints" / f"step_{step:07d}"
    if find_fault(source) is not None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for name in _RECORDS:
        if (donor / name).is_file():
            write_text(heir / name, (donor / name).read_text(encoding="utf-8"))
    rewind_metrics(heir, step)
    staging = folder / f".writing-{source.name}"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging, copy_function=_link)
    staging.rename(folder / source.name)
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one that knows no links
        shutil.copy2(source, target)
