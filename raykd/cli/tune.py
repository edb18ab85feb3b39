"""``raykd tune``: search hyper-parameters and architectures."""

from typing import TYPE_CHECKING

import click

from raykd.cli.command import Command
from raykd.cli.names import StoreType, cluster_option, complete, precision_option, tracker_option
from raykd.cli.stop import Stop
from raykd.errors import RunFailed
from raykd.tracking.tracker import TrackerName

if TYPE_CHECKING:
    from raykd.config.runtime import Precision
    from raykd.results import SearchResult


@click.command(
    cls=Command,
    example="raykd tune student_architecture --trials 24",
    interrupted="no step was made that could be saved",
)
@click.argument("space", shell_complete=complete("space"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@cluster_option(help="Where to run; default: Ray here, a CPU for each trial.")
@precision_option
@tracker_option
@click.option(
    "--out",
    type=StoreType(),
    help="Store of the run directories; default: the cluster's, else runs.",
)
@click.option("--trials", type=click.IntRange(min=1), help="How many in all, of the first stage; default: the space's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_obj
def tune(
    stop: Stop,
    space: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    precision: "Precision | None",
    tracker: tuple[TrackerName, ...],
    out: str | None,
    trials: int | None,
    as_json: bool,
) -> None:
    """Search the recipes that SPACE describes.

    SPACE is a name (`raykd list spaces`) or a YAML file. KEY=VALUE fixes a field of the recipe in all trials
    (of the first stage, where there are two).

    Trials run in parallel on Ray; Optuna proposes them and keeps the record, which its dashboard opens. The same
    command goes on where the last one stopped, and --trials can be raised later; a population (pbt) of another
    size is another search. best.yaml (with several objectives, best-N.yaml for trial N of the front) is a recipe
    for `raykd train`.
    """
    from raykd import api
    from raykd.cluster.config import choose_cluster
    from raykd.search.setup import plan_search
    from raykd.search.space_file import load_space
    from raykd.store.run_directory import runs_in
    from raykd.store.workspace import local_folder

    chosen = load_space(space, overrides, trials)
    place = choose_cluster(cluster, workers=1, precision=precision, trackers=tracker)
    store = local_folder(out or place.storage)
    stop.watch(lambda: runs_in(store), place.address != "local")
    with stop.tidying():
        report = api.tune(plan_search(chosen, store), cluster=place, out=out, should_stop=stop)
    _print(report, as_json)
    if report.failure is not None:
        raise RunFailed(report.failure)
    if not report.trials.complete:
        raise click.exceptions.Exit(1)


def _print(report: "SearchResult", as_json: bool) -> None:
    from raykd.cli import output

    if as_json:
        output.print_json(report.to_dict())
        return
    if report.first is not None:
        _print_stage(report.first)
    _print_stage(report)


def _print_stage(report: "SearchResult") -> None:
    from raykd.cli import output
    from raykd.reporting.board import format_parameters

    columns = ["trial", *report.objectives, "test top-1 %", "parameters"]
    rows = [
        [
            str(one.trial),
            *(f"{value:.4g}" for value in one.values.values()),
            output.format_figure(one.test_top1),
            format_parameters(one.parameters),
        ]
        for one in report.best
    ]
    output.print_table(f"{report.study}: best trials", columns, rows)
    for failed in report.reasons:
        output.echo(f"- trial {failed.trial} failed: {failed.reason}")
    figures = ", ".join(report.figures or ()) or "none"
    made = {f"images made {when}": output.format_count(images) for when, images in (report.images_made or {}).items()}
    output.print_pairs({**report.trials.to_dict(), **made, "figures": figures, "directory": report.directory})
