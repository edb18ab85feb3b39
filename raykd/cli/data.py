"""``raykd data``: make a data set that raykd reads."""

from pathlib import Path

import click

from raykd.cli.command import Command
from raykd.cli.names import complete


@click.command(cls=Command, example="raykd data mnist --out data --download")
@click.argument("name", shell_complete=complete("data"))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Data root to write to.")
@click.option(
    "--source", type=click.Path(path_type=Path), help="Where the set's files lie: a folder, or a Parquet file."
)
@click.option("--download", is_flag=True, help="Fetch missing files from the set's own site.")
@click.option("--size", type=click.IntRange(min=1), help="Resize to so many pixels now; NAME-SIZE is the set's name.")
@click.pass_obj
def data(stop: object, name: str, out: Path, source: Path | None, download: bool, size: int | None) -> None:
    """Write the data set NAME as Parquet files under --out.

    NAME is a torchvision set, or imagefolder for a --source folder of class folders, or parquet for
    a --source file or folder as Hugging Face has them. Then set RAYKD_DATA to the --out folder.
    """
    from raykd.cli import output
    from raykd.cli.stop import Stop
    from raykd.data.convert import convert

    assert isinstance(stop, Stop)
    with stop.tidying():
        made = convert(name, source, out, download=download, size=size)
    output.print_pairs(
        {
            "set": made.name,
            "folder": made.folder,
            **{split: f"{output.format_count(images)} images" for split, images in made.counts.items()},
        }
    )
