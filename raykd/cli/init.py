"""``raykd init``: write a recipe for a teacher of the user's own."""

import shlex
from pathlib import Path

import click

from raykd.cli.command import Command, allow_code_option
from raykd.cli.names import complete

_THERE = "{} is there already, and nothing is overwritten: give another name by --out, or remove it"


@click.command(
    cls=Command, example="raykd init --teacher resnet20.safetensors --data cifar10", interrupted="no recipe was written"
)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--teacher",
    required=True,
    metavar="FILE|MODEL|RECIPE",
    shell_complete=complete("recipe"),
    help="Weights (.safetensors, .npz, .pt, ...), torchvision/NAME, timm/NAME, hf/FOLDER, a YAML file of data and "
    "teacher, a recipe, or a run directory.",
)
@click.option("--method", metavar="NAME", shell_complete=complete("method"), help="Default: by what the teacher is.")
@click.option("--data", metavar="NAME", shell_complete=complete("data"), help="The set that it was trained on.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: TEACHER_METHOD.yaml.")
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def init(
    overrides: tuple[str, ...],
    teacher: str,
    method: str | None,
    data: str | None,
    out: Path | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Write a recipe with comments that trains as it is, for a teacher of your own.

    The teacher is looked at as `raykd inspect` does; what that finds decides the method. The network is told by the
    shapes of the weights, or by teacher.model=NAME or teacher.factory=MODULE:FUNCTION; what its input is normalised
    by, by data.mean=[...] and data.std=[...]. KEY=VALUE sets any other field too. No file is overwritten.
    """
    from raykd.cli import output
    from raykd.config.data_root import data_folder
    from raykd.errors import UsageError
    from raykd.files import make_folder, write_text
    from raykd.store.workspace import Workspace
    from raykd.tasks.init import propose

    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--out {out}: the file of a recipe ends in .yaml, as in --out {out}.yaml")
    if out is not None and out.exists():
        raise UsageError(_THERE.format(out))
    workspace = Workspace(data_folder(), Path("runs"))
    proposal = propose(teacher, overrides, workspace, data=data, method=method, out=out, allow_code=allow_code)
    recipe, found = proposal.recipe, proposal.found
    file = out or Path(f"{recipe.name}.yaml")
    if file.exists():
        raise UsageError(_THERE.format(file))
    make_folder(file.parent)
    write_text(file, proposal.text)
    told = {
        "recipe": str(file),
        "teacher": f"{found.source}, {found.parameters:,} parameters",
        "teacher's top-1": proposal.top1 or "not measured",
        "method": f"{recipe.method.name}: {proposal.reason}",
        "student": (recipe.student.model or recipe.student.factory) if recipe.student else "none",
        "budget": f"{recipe.schedule.steps:,} steps of {recipe.schedule.global_batch}"
        + (f", which took {proposal.took}" if proposal.took else ""),
    }
    following = [f"raykd {verb} {shlex.quote(str(file))}" for verb in ("plan", "train")]
    if as_json:
        output.print_json({**told, "notes": proposal.notes, "next": following})
        return
    notes = {f"note {number}": note for number, note in enumerate(proposal.notes, start=1)}
    next_steps = {"next": f"{following[1]} (what that takes: {following[0]})"}
    output.print_pairs({**told, **notes, **next_steps})
