"""``raykd distill``: the best student that some minutes buy, for a teacher of the user's own."""

import math
import re
from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command, allow_code_option
from raykd.cli.names import StoreType, cluster_option, complete
from raykd.cli.stop import Stop
from raykd.errors import shortened

if TYPE_CHECKING:
    from raykd.results import DistillPlan, DistillResult

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6}


class TargetType(click.ParamType[float]):
    """A number of parameters, or a part of the teacher's below 1."""

    name = "target"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """Refuse what is neither."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)([kKmM]?)", str(value))
        number = float(found[1]) * _UNITS[found[2].lower()] if found else 0.0
        if not 0 < number < math.inf or number == 1:
            self.fail(
                f"{shortened(value)} is neither a number of parameters, as 100000, 100k or 2M, nor a part of the "
                "teacher's, as 0.25.",
                parameter,
                context,
            )
        return number


@click.command(cls=Command, example="raykd distill resnet20.safetensors --data cifar10 --minutes 60")
@click.argument("teacher", shell_complete=complete("recipe"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--student", metavar="MODEL", help="Of `raykd list models`; default: auto, a proposed one.")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="That all of it may take.")
@click.option(
    "--target",
    type=TargetType(),
    metavar="PARAMS|RATIO",
    help="Parameters that a proposed student may have, or which part of the teacher's.",
)
@click.option("--data", metavar="NAME", shell_complete=complete("data"), help="The set that the teacher knows.")
@click.option(
    "--method",
    "methods",
    metavar="NAME",
    multiple=True,
    shell_complete=complete("method"),
    help="What to try, may be given several times; default: all that fits.",
)
@cluster_option(help="Where to run, one candidate after the other; default: in this process, without Ray.")
@click.option("--out", type=StoreType(), help="Store of the run directories; default: the cluster's, else runs.")
@click.option("--dry-run", is_flag=True, help="Only say what would be tried, and how long that takes.")
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_obj
def distill(
    stop: Stop,
    teacher: str,
    overrides: tuple[str, ...],
    student: str | None,
    minutes: float,
    target: float | None,
    data: str | None,
    methods: tuple[str, ...],
    cluster: str | None,
    out: str | None,
    dry_run: bool,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Train the best student of TEACHER that some minutes buy.

    TEACHER is weights (.safetensors, .pt, ...), torchvision/NAME, timm/NAME, hf/FOLDER, a YAML file of data and
    teacher, a recipe, or a run directory.

    Ways that suit the teacher are tried side by side for a part of the time, judged on each other's images, and the
    best one gets the rest; no real image chooses anything. KEY=VALUE sets a field of all of them, as in data.mean=[0.5]
    or student.factory=mine:net. Ctrl-C saves, and names the best student so far; the same command continues.
    """
    from raykd import distillation
    from raykd.cluster.config import choose_cluster
    from raykd.store.run_directory import runs_in
    from raykd.store.workspace import local_folder

    place = choose_cluster(cluster, workers=0)
    request: dict[str, Any] = {
        "student": None if student == "auto" else student,
        "minutes": minutes,
        "target": target,
        "data": data,
        "methods": methods,
        "overrides": overrides,
        "out": out,
        "cluster": place,
        "allow_code": allow_code,
    }
    if dry_run:
        _print_plan(distillation.plan_distillation(teacher, **request, tune_host=True), as_json)
        return
    store = local_folder(out or place.storage)
    stop.watch(lambda: runs_in(store), place.address != "local")
    with stop.tidying():
        result = distillation.distill(teacher, **request, should_stop=stop, tune_host=True)
    _print(result, as_json)


def _print_plan(plan: "DistillPlan", as_json: bool) -> None:
    from raykd.cli import output

    if as_json:
        output.print_json(plan.to_dict())
        return
    output.echo(plan.words)
    columns = ["candidate", "method", "seconds a step", "steps", "what it is"]
    rows = [
        [one.name, one.method, f"{one.seconds_per_step:.3g}", output.format_count(one.steps), one.why]
        for one in plan.candidates
    ]
    output.print_table(plan.session, columns, rows, numbers=False)
    for number, one in enumerate(plan.rounds, start=1):
        seconds = f", {one['seconds']:.0f} s" if "seconds" in one else ""
        steps = "".join(f", {name} to step {step}" for name, step in one.get("steps", {}).items())
        output.echo(f"round {number}: {one['title']}{seconds}{steps}")
    notes = {f"note {number}": note for number, note in enumerate(plan.notes, start=1)}
    output.print_pairs({"expected": f"{plan.seconds:.0f} s of {60 * plan.minutes:.0f}", **notes})


def _print(result: "DistillResult", as_json: bool) -> None:
    from raykd.cli import output

    if as_json:
        output.print_json(result.to_dict())
        return
    columns = ["candidate", "agreement %", "step", "of", "state"]
    rows = [
        [
            one.name + (" (control)" if one.control else ""),
            output.format_figure(one.agreement),
            output.format_count(one.step),
            output.format_count(one.steps),
            one.state,
        ]
        for one in result.candidates
    ]
    output.print_table(f"{result.session}: what was tried", columns, rows)
    figures = result.figures
    judges = "its own held-out images" if result.judged_on_own else "the others' images"
    share = 100 * result.search_seconds / result.seconds if result.seconds else 0.0
    pairs = {
        "student": f"{result.student}, {result.student_parameters:,} parameters of the teacher's "
        f"{result.teacher_parameters:,}",
        "chosen": f"{result.chosen}, by its agreement on {judges}",
        "agreement %": f"{output.format_figure(result.judged_agreement) or 'not measured'} on {judges}, "
        f"{output.format_figure(figures.synthetic_agreement) or 'not measured'} on those that its last report held out",
        "test split": _test(result),
        "seconds": f"{result.seconds:.0f}, {share:.0f} % of them for the search",
        "directory": result.run_directory,
        "recipe": f"{result.recipe} (raykd train makes the same run)",
        "report": result.report,
        "export": result.export,
        "low confidence": result.doubt,
    }
    output.print_pairs({name: value for name, value in pairs.items() if value is not None})
    for text in result.warnings:
        output.echo(f"warning: {text}")


def _test(result: "DistillResult") -> str | None:
    from raykd.cli import output

    figures = result.figures
    if figures.agreement is None and figures.top1 is None:
        return None
    top1 = "" if figures.top1 is None else f"top-1 {output.format_figure(figures.top1)} %, "
    return f"{top1}agreement {output.format_figure(figures.agreement)} %: they chose nothing"
