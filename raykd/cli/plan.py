"""``raykd plan``: what a run will need, before it starts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command
from raykd.cli.names import cluster_option, complete, precision_option

if TYPE_CHECKING:
    from raykd.config.runtime import Precision
    from raykd.results import Plan


_UNITS = (("days", 86400.0), ("hours", 3600.0), ("min", 60.0), ("s", 1.0))
_WHOLE_FROM, _SHORTEST, _LEAST_PRICE = 10, 0.1, 0.005


@click.command(cls=Command, example="raykd plan {recipe} --cluster local")
@click.argument("recipe", shell_complete=complete("recipe"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@cluster_option(help="Where it is to run; default: in one process, without Ray.")
@precision_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    precision: "Precision | None",
    as_json: bool,
) -> None:
    """Tell what training RECIPE would take: memory, time, traffic and disk.

    A few steps of every run that is not finished are tried on this machine; nothing is kept. What
    cannot fit into a worker's memory is refused, with what would.
    """
    from raykd import api
    from raykd.cli import output
    from raykd.cluster.config import choose_cluster

    found = api.plan(recipe, overrides=overrides, cluster=choose_cluster(cluster, workers=0, precision=precision))
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
        f"{', '.join(durations(run))} ({run['seconds_per_step']:.3g} s x {format_count(run['steps'])} steps, "
        f"{run['seconds_per_report']:.3g} s x {format_count(run['reports'])} reports)"
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
    lines = [format_time(3600 * figures["hours"])] if "hours" in figures else []
    names = {"gpu_hours": "of GPUs", "cpu_hours": "of CPUs"}
    lines += [f"{format_time(3600 * figures[key])} {name}" for key, name in names.items() if key in figures]
    if "price" in figures:
        price = figures["price"]
        lines.append(f"{'< 0.01' if 0 < price < _LEAST_PRICE else f'{price:.2f}'} to pay at price_per_hour")
    return lines


def format_time(seconds: float) -> str:
    """Write a time in the largest unit of which there are two, with two digits that count."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            amount = seconds / length
            return f"{amount:.0f} {unit}" if amount >= _WHOLE_FROM else f"{amount:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= _SHORTEST else "< 0.1 s"
