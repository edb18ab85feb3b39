"""``raykd export``: write a run's student so that it runs without raykd."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raykd.cli.command import Command, allow_code_option
from raykd.cli.names import StoreType
from raykd.results import FORMATS

if TYPE_CHECKING:
    from raykd.results import ExportedModel, ExportResult


@click.command(
    cls=Command, example="raykd export runs/RUN --out digits-onnx --int8", interrupted="nothing was exported"
)
@click.argument("run", type=StoreType())
@click.option("--format", "form", type=click.Choice(FORMATS), default="onnx", show_default=True, help="What to write.")
@click.option(
    "--out",
    "folder",  # not "out", which stands for a folder that takes tracebacks
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder, empty or not there yet.",
)
@click.option("--int8", is_flag=True, help="Of onnx: quantise to 8 bits too, calibrated on images that the run has.")
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def export(stop: object, run: str, form: str, folder: Path, int8: bool, as_json: bool, allow_code: bool) -> None:
    """Write the student in the run directory RUN so that it runs without raykd.

    The student is the one that counts, as `raykd evaluate` says; it takes pixels as they are, in batches of any size.
    What is written (onnx: opset 18) is compared with it on the whole test split, or else on the run's own images, and
    any difference beyond rounding is a failure. Beside it are the names of the classes, a model card and predict.py.
    """
    from raykd import api
    from raykd.cli import output
    from raykd.cli.stop import Stop

    assert isinstance(stop, Stop)
    with stop.tidying():
        made = api.export(run, folder, format=form, int8=int8, allow_code=allow_code)
    if as_json:
        output.print_json(made.to_dict())
    else:
        _print(made)


def _print(made: "ExportResult") -> None:
    from raykd.cli import output

    if made.int8 is not None:
        columns = ["", "top-1 %", "equal answers", "bytes", "ms an image (1 thread)"]
        output.print_table(f"export of {made.run}", columns, [_row(made.model, made), _row(made.int8, made)])
    pairs = {
        "run": f"{made.run}, the {made.selected} student, of step {made.step}",
        "format": made.format + (f", opset {made.opset}" if made.opset else ""),
        "input": made.input,
        "output": made.output,
        "compared on": f"{made.compared_on}, {output.format_count(made.images)} images",
        "equal answers": output.format_count(made.model.same_answers),
        "largest difference": f"{made.max_difference:.2g} of a logit; allowed: {made.tolerance:.2g}",
        "top-1 %": output.format_figure(made.model.top1) or "not measured: the images bear no labels",
        "calibrated on": made.calibrated_on,
        "bytes": output.format_count(made.model.bytes),
        "folder": made.folder,
        "needs": ", ".join(made.needs),
        "try it": f"python {shlex.quote(f'{made.folder}/predict.py')} {made.argument}",
    }
    output.print_pairs({name: value for name, value in pairs.items() if value is not None})


def _row(model: "ExportedModel", made: "ExportResult") -> list[str]:
    from raykd.cli import output

    top1 = output.format_figure(model.top1)
    equal = f"{output.format_count(model.same_answers)} of {output.format_count(made.images)}"
    latency = "" if model.latency_ms is None else f"{model.latency_ms:.3g}"
    return [model.file, top1, equal, output.format_count(model.bytes), latency]
