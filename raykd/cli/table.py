"""``raykd table``: all runs of a published table, as parallel trials, and the table they make."""

from typing import TYPE_CHECKING

import click

from raykd.cli.command import Command
from raykd.cli.names import StoreType, cluster_option, complete, precision_option, tracker_option
from raykd.cli.stop import Stop
from raykd.tracking.tracker import TrackerName

if TYPE_CHECKING:
    from raykd.config.runtime import Precision
    from raykd.results import TableResult


@click.command(cls=Command, example="raykd table digits --quick", interrupted="no step was made that could be saved")
@click.argument("name", shell_complete=complete("table"))
@click.option("--quick", is_flag=True, help="The reduced budget that the table states, not the published one.")
@click.option("--seeds", type=click.IntRange(min=1), help="Seeds of every row; default: what the table says.")
@cluster_option(help="Where to run; default: this machine, one CPU for each trial.")
@precision_option
@tracker_option
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
    precision: "Precision | None",
    tracker: tuple[TrackerName, ...],
    out: str | None,
    as_json: bool,
) -> None:
    """Fill a published table: the paper's figures beside measured ones.

    NAME is a packaged table (`raykd list tables`) or a YAML file.

    All rows and seeds run as parallel trials on Ray, teachers first. What the store holds already is read, not run
    again, so the same command resumes. table.md and table.json appear in the store under tables/ and grow with every
    run that ends.
    """
    from raykd import api
    from raykd.cluster.config import choose_cluster
    from raykd.recipe.table import load_table
    from raykd.store.run_directory import runs_in
    from raykd.store.workspace import local_folder

    plan = load_table(name)
    place = choose_cluster(cluster, workers=1, precision=precision, trackers=tracker)
    store = local_folder(out or place.storage)
    stop.watch(lambda: runs_in(store), place.address != "local")
    with stop.tidying():
        final = api.table(plan, quick=quick, seeds=seeds, cluster=place, out=out, should_stop=stop)
    _print(final, as_json)
    if final.runs.failed:
        raise click.exceptions.Exit(1)


def _print(report: "TableResult", as_json: bool) -> None:
    from raykd.cli import output
    from raykd.reporting.tables import HEADER, list_notes, summarize_costs, table_lines

    if as_json:
        output.print_json(report.to_dict())
        return
    for column, title in report.columns.items():
        output.print_table(f"{report.title}: {title}", HEADER, table_lines(report, column))
    for note in list_notes(report):
        output.echo(f"- {note}")
    output.print_pairs({**summarize_costs(report), "directory": report.directory})
