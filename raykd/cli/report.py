"""``raykd report``: what a reader wants to see, as one HTML file."""

from pathlib import Path

import click

from raykd.cli.command import Command
from raykd.cli.names import StoreType


@click.command(cls=Command, example="raykd report runs/RUN")
@click.argument("where", metavar="RUN|SEARCH|TABLE...", nargs=-1, required=True, type=StoreType())
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File; default: report.html in the folder."
)
def report(where: tuple[str, ...], out: Path | None) -> None:
    """Write a run, a search or a table as one HTML file that needs no network.

    They are the directories that `train`, `tune` and `table` print, whose report.html they write at their end. Several
    runs are shown beside each other (in ./report.html), seeds of a recipe as one; a store, such as runs, as a list.
    """
    from raykd import api
    from raykd.cli import output

    output.echo(str(api.report(*where, out=out)))
