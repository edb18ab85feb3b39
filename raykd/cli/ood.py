"""``raykd ood``: choose images of another domain for a teacher."""

from pathlib import Path

import click

from raykd.cli.command import Command, allow_code_option
from raykd.cli.names import complete


@click.command(
    cls=Command,
    example="raykd ood supervised_digits_lenet5 --data usps --images 2000 --out hard.parquet",
    interrupted="no index was written",
)
@click.argument("teacher", shell_complete=complete("recipe"))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--data",
    required=True,
    metavar="NAME",
    shell_complete=complete("data"),
    help="Data set whose train split has the images.",
)
@click.option("--images", type=click.IntRange(min=1), help="How many to choose; default: all, in order.")
@click.option(
    "--out",
    "file",  # not "out", which stands for a folder that takes tracebacks
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to; default: ood-TEACHER-DATA.parquet here.",
)
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ood(
    teacher: str,
    overrides: tuple[str, ...],
    data: str,
    images: int | None,
    file: Path | None,
    as_json: bool,
    allow_code: bool,
) -> None:
    """Rank other images by how unsure a teacher is of them.

    Writes an index of the images of highest prediction entropy, the highest first. A recipe shows
    only these by data.ood_index=FILE, or the best N of them by data.ood_images=N.

    TEACHER is what `raykd inspect` takes: a recipe, a YAML file of data and teacher, or a run
    directory. Runs of recipes are looked for in runs/.
    """
    from raykd import api
    from raykd.cli import output

    made = api.ood(teacher, data, overrides=overrides, images=images, out=file, allow_code=allow_code)
    if as_json:
        output.print_json(made.to_dict())
        return
    count = output.format_count
    output.print_pairs(
        {
            "images": f"{count(made.images)} of {count(made.of)} of {made.data}/train",
            "entropy": f"{made.entropy_lowest:.3f} to {made.entropy_highest:.3f} nats, "
            f"{made.entropy_of_all:.3f} on average over all",
            "classes": f"{made.classes_predicted} of {made.classes} predicted, "
            f"{count(made.largest_class)} images of the most frequent",
            "teacher": made.teacher,
            "file": made.file,
        }
    )
