"""``raykd inspect``: look at a teacher before training."""

from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command, allow_code_option
from raykd.cli.names import complete

if TYPE_CHECKING:
    from raykd.results import MethodVerdict


@click.command(cls=Command, example="raykd inspect {recipe}")
@click.argument("teacher", shell_complete=complete("recipe"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(teacher: str, overrides: tuple[str, ...], as_json: bool, allow_code: bool) -> None:
    """Tell what a teacher is worth before training.

    Size, accuracy, health of its BatchNorm statistics, whether it can be inverted.

    TEACHER is a recipe or a YAML file, whose teacher section counts (a file with nothing but data
    and teacher will do), a run directory, a file of weights with data.name=NAME, or torchvision/NAME,
    timm/NAME or hf/FOLDER. Runs of recipes are looked for in runs/.
    """
    from raykd import api
    from raykd.cli import output

    result = api.inspect(teacher, overrides=overrides, allow_code=allow_code)
    if as_json:
        output.print_json(result.to_dict())
        return
    found = result.to_dict()
    del found["methods"]
    notes = {f"note {number}": note for number, note in enumerate(found.pop("notes", None) or (), start=1)}
    output.print_pairs({name: _readable(value) for name, value in found.items() if value is not None} | notes)
    columns = ("method", "verdict", "needs", "for", "against")
    output.print_table("Methods", columns, map(_row, result.methods.items()), numbers=False)


def _row(item: tuple[str, "MethodVerdict"]) -> list[str]:
    name, found = item
    verdict = found.verdict if found.verdict == "usable" else f"{found.verdict}: {'; '.join(found.reasons)}"
    if found.verdict == "limited":
        verdict = f"usable {'; '.join(found.reasons)}"
    return [name, verdict, *("; ".join(texts) for texts in (found.needs, found.pros, found.cons))]


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        faults = [f"{name}: {', '.join(layers)}" for name, layers in value.items() if layers]
        return "; ".join(faults) or "none"
    if isinstance(value, list):
        return ", ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
