"""``raykd statistics``: what a teacher sees of each class."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from raykd.cli.command import Command, allow_code_option
from raykd.cli.names import complete

if TYPE_CHECKING:
    from raykd.results import StatisticsResult


@click.command(
    cls=Command, example="raykd statistics my_teacher.yaml --per-class 50", interrupted="no statistics were written"
)
@click.argument("teacher", shell_complete=complete("recipe"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--data",
    metavar="NAME",
    shell_complete=complete("data"),
    help="Set whose train split is opened; default: the teacher's.",
)
@click.option(
    "--out",
    "file",  # not "out", which stands for a folder that takes tracebacks
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to; default: statistics-TEACHER-DATA-N.safetensors here.",
)
@click.option("--per-class", type=int, default=100, show_default=True, help="Images of each class.")
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def statistics(
    teacher: str,
    overrides: tuple[str, ...],
    data: str | None,
    file: Path | None,
    per_class: int,
    as_json: bool,
    allow_code: bool,
) -> None:
    """Measure what a teacher's BatchNorm layers see of each class.

    Opens images of the classes. A recipe that uses the file, by calibration.file=FILE, is
    data-free but for these, and says so.

    TEACHER is what `raykd inspect` takes: a recipe, a YAML file of data and teacher, or a run
    directory. Runs of recipes are looked for in runs/.
    """
    from raykd import api
    from raykd.cli import output

    made = api.statistics(teacher, overrides=overrides, data=data, per_class=per_class, out=file, allow_code=allow_code)
    if as_json:
        output.print_json(made.to_dict())
    else:
        _print(made)


def _print(made: "StatisticsResult") -> None:
    from raykd.cli import output

    count = output.format_count
    rows = [[layer.name, count(layer.channels), count(2 * made.classes * layer.channels)] for layer in made.layers]
    output.print_table(f"statistics of {made.teacher}", ["layer", "channels", "numbers"], rows)
    fewest, most = min(made.counts), max(made.counts)
    images = count(most) if fewest == most else f"{count(fewest)} to {count(most)}"
    output.print_pairs(
        {
            "images": f"{images} of each of {made.classes} classes",
            "data opened": "calibration: " + ", ".join(made.data_opened["calibration"]),
            "teacher sha256": made.teacher_sha256,
            "file": made.file,
            "bytes": count(made.bytes),
        }
    )
