"""``raykd table``: all runs of a published table, as parallel trials, and the table they make."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command
from raykd.cli.names import StoreType, complete_table, data_place
from raykd.cli.stop import Stop

if TYPE_CHECKING:
    from raykd.recipe.experiment import Experiment
    from raykd.runners.batch import RunOutcome
    from raykd.store.run_directory import RunDirectory


@click.command(cls=Command, example="raykd table digits --quick")
@click.argument("name", shell_complete=complete_table)
@click.option("--quick", is_flag=True, help="The reduced budget that the table states, not the published one.")
@click.option("--seeds", type=click.IntRange(min=1), help="Seeds of every row; default: what the table says.")
@click.option("--cluster", metavar="NAME|FILE", help="Where to run; default: this machine, one CPU for each trial.")
@click.option(
    "--out",
    type=StoreType(),
    help="Store of the run directories; default: the cluster's, else runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_obj
def table(
    stop: Stop,
    name: str,
    quick: bool,
    seeds: int | None,
    cluster: str | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Fill a published table: the paper's figures beside measured ones.

    NAME is a packaged table (`raykd list tables`) or a YAML file.

    All rows and seeds run as parallel trials on Ray, teachers first. What the store holds already is read, not run
    again, so the same command resumes. table.md and table.json appear in the store under tables/ and grow with every
    run that ends.
    """
    from raykd.cli.progress import following
    from raykd.cluster.config import Cluster, load_cluster
    from raykd.distributed.world import World
    from raykd.recipe.table import load_table, table_entries
    from raykd.reporting.tables import table_report
    from raykd.runners.batch import run_batch
    from raykd.store.remote import join
    from raykd.store.run_directory import RunDirectory
    from raykd.store.workspace import local_folder, open_workspace

    plan = load_table(name)
    entries = table_entries(plan, quick=quick, seeds=seeds)
    place = Cluster(name="here") if cluster is None else load_cluster(cluster)
    where, root = out or place.storage, data_place(place.data_root)
    store = local_folder(where)
    wanted = list({run.run_id: run for entry in entries for run in entry.runs}.values())
    runs = list({run.run_id: run for one in wanted for run in one.runs}.values())
    made = f"tables/{plan.name}-quick" if quick else f"tables/{plan.name}"
    folder = store / made
    outcomes: dict[str, RunOutcome] = {}

    def report() -> dict[str, Any]:
        finished = {run: ended.result for run, ended in outcomes.items() if ended.result is not None}
        return table_report(
            plan,
            entries,
            quick=quick,
            results=finished,
            reasons={run: ended.reason for run, ended in outcomes.items() if ended.reason is not None},
            hardware={run: _hardware(RunDirectory(store / run)) for run in finished},
            price_per_hour=place.price_per_hour,
        )

    def ended(run: "Experiment", how: "RunOutcome") -> None:
        outcomes[run.run_id] = how
        _write(folder, report())
        _tell(len(outcomes), len(runs), run.run_id, how.reason)

    stop.watch([RunDirectory(store / run.run_id) for run in runs], place.address != "local")
    with following(runs, where, elsewhere=place.address != "local"), stop.tidying():
        run_batch(wanted, place, store=where, data_root=root, should_stop=stop, on_outcome=ended)
    final = report()
    _write(folder, final)
    open_workspace(where, None, known=True).push(made, World.alone())
    _print(final, join(where, made), as_json)
    if final["runs"]["failed"]:
        raise click.exceptions.Exit(1)


def _tell(done: int, runs: int, run: str, reason: str | None) -> None:
    import logging

    logger = logging.getLogger(__name__)
    if reason is None:
        logger.info("%d of %d runs: %s finished", done, runs, run)
    else:
        logger.warning("%d of %d runs: %s failed: %s", done, runs, run, reason)


def _hardware(run: "RunDirectory") -> str:
    """Say what a run was trained on, from what it noted at its start."""
    noted = run.environment()
    try:
        device = noted["gpu"] or f"{noted['cpu']}, {noted['threads_per_worker']} of {noted['cores']} cores"
        return f"{noted['workers']} x {device}, {noted['precision']}"
    except KeyError:
        return "not noted"


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    from raykd.files import write_text
    from raykd.reporting.tables import markdown

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.json", json.dumps(report, indent=1))
    write_text(folder / "table.md", markdown(report))


def _print(report: Mapping[str, Any], place: str, as_json: bool) -> None:
    from raykd.cli import output
    from raykd.reporting.tables import HEADER, account_of, notes_of, table_lines

    if as_json:
        output.print_json({**report, "directory": place})
        return
    for column, title in report["columns"].items():
        output.print_table(f"{report['title']}: {title}", HEADER, table_lines(report, column))
    for note in notes_of(report):
        click.echo(f"- {note}")
    output.print_pairs({**account_of(report), "directory": place})
