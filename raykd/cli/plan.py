"""``raykd plan``: what a run will need, before it starts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command
from raykd.cli.names import cluster_option, complete

if TYPE_CHECKING:
    from raykd.results import Plan


@click.command(cls=Command, example="raykd plan {recipe} --cluster local")
@click.argument("recipe", shell_complete=complete("recipe"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@cluster_option(help="Where it is to run; default: in one process, without Ray.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(recipe: str, overrides: tuple[str, ...], cluster: str | None, as_json: bool) -> None:
    """Tell what training RECIPE would take: memory, time, traffic and disk.

    A few steps of every run that is not finished are tried on this machine; nothing is kept. What
    cannot fit into a worker's memory is refused, with what would.
    """
    from raykd import api
    from raykd.cli import output

    found = api.plan(recipe, overrides=overrides, cluster=cluster)
    if as_json:
        output.print_json(found.to_dict())
    else:
        print_plan(found)


def print_plan(found: "Plan") -> None:
    """Print a plan for a reader."""
    from raykd.cli import output

    for run in found.runs:
        output.echo(f"{run.run}: {run.state}")
        if run.state == "to train":
            output.print_pairs({f"  {name}": value for name, value in _lines(run.to_dict(), found.workers).items()})
        elif run.reason is not None:
            output.echo(f"  {run.reason}")
    notes = {f"note {i}": note for i, note in enumerate(found.notes or (), start=1)}
    output.print_pairs({"in all": ", ".join(durations(found.total)), **notes})


def _lines(run: dict[str, Any], workers: int) -> dict[str, str]:
    from raykd.cli.output import format_count
    from raykd.files import gib

    lines = {"workers": str(workers)}
    if "waves" in run:
        lines["classes"] = f"{run['classes_per_worker']} a worker, {run['images_per_class']} images of each in a step"
        lines["waves"] = f"{run['waves']}, of {run['wave']} generators a worker"
    lines["images"] = f"{format_count(run['images_per_worker'])} a worker in a step"
    for role, number in run["parameters"].items():
        lines[f"parameters, {role}"] = format_count(number)
    lines["optimizer state"] = gib(run["optimizer_bytes"])
    lines["activations, gradients"] = gib(run["activation_bytes"])
    if "pool_bytes" in run:
        lines["images held"] = gib(run["pool_bytes"])
    available = run["available_bytes"]
    lines["peak memory"] = gib(run["peak_bytes"]) + (f" of {gib(available)}" if available else "") + " a worker"
    sent = {name.replace("_", " "): gib(amount) for name, amount in run["traffic_bytes"].items() if amount}
    lines["sent in a step"] = ", ".join(f"{name} {amount}" for name, amount in sent.items()) or "nothing"
    if "bank" in run:
        bank = run["bank"]
        lines["bank"] = (
            f"{bank['mode']}, {bank['members']} generators in {bank['dtype']} a worker: {gib(bank['bytes'])}"
        )
    lines["time"] = (
        f"{run['seconds_per_step']:.3g} s x {format_count(run['steps'])} steps, "
        f"{run['seconds_per_report']:.3g} s x {format_count(run['reports'])} reports: {', '.join(durations(run))}"
    )
    checkpoints = f"{run['checkpoints_kept']} checkpoints of {gib(run['checkpoint_bytes'])}"
    lines["disk"] = f"about {gib(run['disk_bytes'])}: {checkpoints} and one more while it is written"
    if "bank_bytes" in run:
        lines["disk"] += f", bank {gib(run['bank_bytes'])}"
    if "pool_images" in run:
        lines["disk"] += f", {format_count(run['pool_images'])} images {gib(run['pool_disk_bytes'])}"
    lines["measured"] = f"on this machine ({run['measured']['device']})"
    return lines | {f"note {i}": note for i, note in enumerate(run["notes"], start=1)}


def durations(figures: Mapping[str, Any]) -> list[str]:
    """Write hours and what they cost for a reader."""
    names = {"hours": "hours", "gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours", "price": "to pay at price_per_hour"}
    return [f"{figures[key]:.3g} {name}" for key, name in names.items() if key in figures]
