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
@click.option(
    "--classes",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Of imagenet: only these classes, one a line; FILE without its ending is the set's name.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Of imagenet: processes that convert."
)
@click.option("--skip-damaged", is_flag=True, help="Of imagenet: leave out and list what cannot be decoded.")
@click.pass_obj
def data(
    stop: object,
    name: str,
    out: Path,
    source: Path | None,
    download: bool,
    size: int | None,
    classes: Path | None,
    workers: int,
    skip_damaged: bool,
) -> None:
    """Write the data set NAME as Parquet files under --out.

    NAME is a torchvision set, or imagefolder for a --source folder of class folders, or parquet for
    a --source file or folder as Hugging Face has them. Then set RAYKD_DATA to the --out folder.

    imagenet is taken as torchvision, the original archives, Kaggle and Hugging Face have it. A conversion of it that
    was ended is gone on with by the same command.
    """
    from raykd.cli import output
    from raykd.cli.stop import Stop
    from raykd.data.convert import convert

    assert isinstance(stop, Stop)
    with stop.tidying():
        made = convert(
            name,
            source,
            out,
            download=download,
            size=size,
            class_list=classes,
            workers=workers,
            skip_damaged=skip_damaged,
        )
    output.print_pairs(
        {
            "set": made.name,
            "folder": made.folder,
            **{split: f"{output.format_count(images)} images" for split, images in made.counts.items()},
        }
    )
