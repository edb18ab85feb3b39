"""``raykd synthesize``: make a data set out of a run's generators."""

from pathlib import Path

import click

from raykd.cli.command import Command, allow_code_option
from raykd.cli.names import StoreType


@click.command(cls=Command, example="raykd synthesize runs/BANK-RUN --images 50000 --out data/synthetic")
@click.argument("run", type=StoreType())
@click.option("--images", type=int, required=True, help="How many, all classes together.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the set.")
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def synthesize(stop: object, run: str, images: int, out: Path, as_json: bool, allow_code: bool) -> None:
    """Write images of the generators in the run directory RUN as a data set.

    RUN trained a bank, a generator beside its student, or a student of a bank beside it, or it has a pool of images,
    which are written in the order in which they were made. The same command goes on with an unfinished set. Train on
    the set by data.train=FOLDER.
    """
    from raykd import api
    from raykd.cli import output
    from raykd.cli.stop import Stop

    assert isinstance(stop, Stop)
    with stop.tidying():
        made = api.synthesize(run, images, out, allow_code=allow_code)
    if as_json:
        output.print_json(made.to_dict())
        return
    state = f"{made.written} written now" if made.written else "finished before"
    output.print_pairs(
        {
            "set": made.set,
            "folder": made.folder,
            "images": output.format_count(images),
            "files": f"{made.files} ({state})",
            "bank": made.bank,
        }
    )
