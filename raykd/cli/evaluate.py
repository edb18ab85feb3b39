"""``raykd evaluate``: score a run's student again."""

import click

from raykd.cli.command import Command, allow_code_option
from raykd.cli.names import StoreType


@click.command(cls=Command, example="raykd evaluate runs/RUN")
@click.argument("run", type=StoreType())
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(run: str, as_json: bool, allow_code: bool) -> None:
    """Score the student in the run directory RUN on the test split.

    RUN may be an address, such as s3://BUCKET/FOLDER/RUN. Needs nothing but the run and a data root.
    The teacher is compared with where it is found: its run beside this one, or its weights file.
    """
    from raykd import api
    from raykd.cli import output

    result = api.evaluate(run, allow_code=allow_code)
    if as_json:
        output.print_json(result.to_dict())
        return
    rows = [
        [name + (" (selected)" if name == result.selected else ""), *output.format_figures(figures)]
        for name, figures in result.students.items()
    ]
    if result.teacher is not None:
        rows.append(["teacher", *output.format_figures(result.teacher)])
    output.print_table(result.run, ["student", *output.COLUMNS.values()], rows)
    state = "finished" if result.finished else "unfinished"
    output.print_pairs({"state": f"{state}, step {result.step}", "directory": run})
