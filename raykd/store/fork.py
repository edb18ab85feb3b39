"""A run that begins with what another has done: its checkpoint of a step, its images, rows and rewinds up to there."""

import os
import shutil

from raykd.files import make_folder
from raykd.store.checkpoint import find_fault, is_checkpoint, pool_files, step_name
from raykd.store.run_directory import RunDirectory


def fork(heir: RunDirectory, donor: RunDirectory, step: int) -> bool:
    """Let the run in ``heir`` go on from the ``step`` of the one in ``donor``, whose recipe is the same up to there.

    Files are linked where the file system can, since nobody writes into what is whole. Returns whether
    ``heir`` has a checkpoint now: without the donor's it trains those steps itself, to the same weights.

    Raises:
        SetupError: if the disk does not take it.
    """
    folder = heir.checkpoints
    if any(map(is_checkpoint, folder.glob("*"))):
        return True
    source = donor.checkpoints / step_name(step)
    if find_fault(source) is not None:
        return False
    with heir.writing():
        make_folder(folder)
        heir.copy_records(donor, step)
        # From where the donor has gone back behind this step, its rates are halved and its noise is another.
        if rewinds := [one for one in donor.status().get("rewinds") or [] if one["to"] < step]:
            heir.write_status(rewinds=rewinds)
        for name in pool_files(source):
            make_folder(heir.pool)
            (heir.pool / name).unlink(missing_ok=True)  # of an attempt that was killed
            _link(str(donor.pool / name), str(heir.pool / name))
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
