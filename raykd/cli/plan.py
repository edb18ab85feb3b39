"""``raykd plan``: what a run will need, before it starts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command
from raykd.cli.names import cluster_option, complete, precision_option
from raykd.cli.stop import Stop

if TYPE_CHECKING:
    from raykd.cluster.config import Cluster
    from raykd.config.runtime import Precision
    from raykd.results import Plan, RunPlan

    NumbersType = click.ParamType[tuple[int, ...]]
else:
    NumbersType = click.ParamType  # which takes no argument before click 8.3

_UNITS = (("days", 86400.0), ("hours", 3600.0), ("min", 60.0), ("s", 1.0))
_WHOLE_FROM, _SHORTEST, _LEAST_PRICE = 10, 0.1, 0.005
_MOST_WORKERS = 100_000


class CountsType(NumbersType):
    """Numbers of workers, as in 1,8,64."""

    name = "numbers"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        """Refuse what are no numbers from 1."""
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isascii() and part.isdecimal() and 0 < int(part[:7]) <= _MOST_WORKERS for part in parts):
            self.fail(f"{value!r} is no list of numbers of workers, as in 1,8,64.", parameter, context)
        return tuple(dict.fromkeys(map(int, parts)))


@click.command(
    cls=Command,
    example="raykd plan {recipe} --cluster local",
    interrupted="no plan was made, and nothing of it is kept",
)
@click.argument("recipe", shell_complete=complete("recipe"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@cluster_option(help="Where it is to run; default: in one process, without Ray.")
@precision_option
@click.option(
    "--workers",
    "counts",
    metavar="N,N,...",
    type=CountsType(),
    help="Compare so many workers, each on cores of its own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def plan(
    stop: Stop,
    recipe: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    precision: "Precision | None",
    counts: tuple[int, ...],
    as_json: bool,
) -> None:
    """Tell what training RECIPE would take: memory, time, traffic and disk.

    A few steps of every run that is not finished are tried on this machine; nothing is kept. What
    cannot fit into a worker's memory is refused, with what would.
    """
    from raykd import api
    from raykd.cli import output
    from raykd.cluster.config import choose_cluster

    place = choose_cluster(cluster, workers=0, precision=precision)
    with stop.tidying():  # what it has tried lies in a temporary folder
        if counts:
            _compare(recipe, overrides, place, counts, as_json)
            return
        found = api.plan(recipe, overrides=overrides, cluster=place)
    if as_json:
        output.print_json(found.to_dict())
    else:
        print_plan(found)


def _compare(recipe: str, overrides: tuple[str, ...], place: "Cluster", counts: Sequence[int], as_json: bool) -> None:
    """Plan the recipe's own run for each number of workers, and print one table; what cannot be is said below it."""
    from raykd.cli import output
    from raykd.cluster.config import choose_site
    from raykd.planning.on_cluster import compare_workers
    from raykd.recipe.experiment import resolve
    from raykd.recipe.recipe import load_recipe
    from raykd.store.workspace import local_folder

    site = choose_site(place, 0, None, None)
    root = local_folder(site.data_root) if site.data_root else None
    experiment = resolve(load_recipe(recipe, overrides))
    plans = compare_workers(experiment, site.cluster, counts, store=local_folder(site.store), data_root=root)
    found = {count: one for count, one in plans.items() if not isinstance(one, Exception)}
    refused = {count: str(one) for count, one in plans.items() if isinstance(one, Exception)}
    first = next(iter(found.values()))
    if as_json:
        told = {str(count): found[count].to_dict() if count in found else {"error": refused[count]} for count in plans}
        output.print_json({"recipe": first.recipe, "run": first.run, "workers": told})
        return
    columns = [
        "workers",
        "images each",
        "memory",
        "s a step",
        "of it network",
        "sent a step",
        "waits",
        "time",
        "faster",
    ]
    rows = [[str(count), *_comparison(one.runs[-1], first.runs[-1])] for count, one in found.items()]
    output.print_table(first.run, columns, rows)
    notes = dict.fromkeys(note for one in found.values() for note in (*(one.notes or ()), *(one.runs[-1].notes or ())))
    told_of = {f"{count} workers": reason for count, reason in refused.items()}
    output.print_pairs(told_of | {f"note {i}": note for i, note in enumerate(notes, start=1)})


def _comparison(run: "RunPlan", first: "RunPlan") -> list[str]:
    """Return a row of the comparison; ``first`` is what it is compared to."""
    from raykd.cli.output import format_count
    from raykd.files import gib

    assert run.hours is not None and first.hours is not None, "it was planned"
    network = run.network_seconds_per_step
    return [
        format_count(run.images_per_worker or 0),
        gib(run.peak_bytes or 0),
        f"{run.seconds_per_step:.3g}",
        "" if network is None else f"{network:.2g}",
        gib(run.traffic_bytes_in_all or 0),
        format_count(run.collectives_per_step or 0),
        format_time(3600 * run.hours),
        f"{first.hours / run.hours:.2f}",
    ]


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
    if "jobs_per_worker" in run:
        lines["jobs"] = f"{format_count(run['jobs_per_worker'])} a worker, one after the other"
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
    if "collectives_per_step" in run:
        step, report = (format_count(run[f"collectives_per_{kind}"]) for kind in ("step", "report"))
        waits = f"{step} times a step, {report} a report"
        network = run.get("network_seconds_per_step")
        lines["workers wait"] = waits + ("" if network is None else f"; network {network:.2g} s a step")
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
