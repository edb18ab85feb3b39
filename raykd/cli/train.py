"""``raykd train``: one recipe, one seed or several, in this process or on a cluster."""

import os
from typing import TYPE_CHECKING

import click

from raykd.cli.command import Command
from raykd.cli.names import StoreType, cluster_option, complete, precision_option, tracker_option
from raykd.cli.stop import Stop
from raykd.tracking.tracker import TrackerName

if TYPE_CHECKING:
    from raykd.config.runtime import Precision
    from raykd.results import SeedsResult


@click.command(cls=Command, example="raykd train {recipe}", interrupted="no step was made that could be saved")
@click.argument("recipe", shell_complete=complete("recipe"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@cluster_option(help="Where to run; default: in this process, without Ray.")
@precision_option
@tracker_option
@click.option(
    "--out",
    type=StoreType(),
    help="Store of the run directories; default: the cluster's, else runs.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    help="Runs with as many seeds, and their mean.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_obj
def train(
    stop: Stop,
    recipe: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    precision: "Precision | None",
    tracker: tuple[TrackerName, ...],
    out: str | None,
    seeds: int,
    as_json: bool,
) -> None:
    """Train the student that RECIPE describes.

    RECIPE is a packaged name (`raykd list recipes`) or a YAML file.

    KEY=VALUE replaces a field of the recipe, as in student_optim.lr=0.01. The same command resumes
    a run that was stopped, and reads one that is finished. Ctrl-C saves and stops.
    """
    from raykd import api
    from raykd.cluster.config import choose_cluster
    from raykd.recipe.experiment import resolve
    from raykd.recipe.recipe import load_recipe
    from raykd.store.run_directory import RunDirectory
    from raykd.store.workspace import local_folder

    base = resolve(load_recipe(recipe, overrides))
    place = choose_cluster(cluster, workers=0, precision=precision, trackers=tracker)
    store, first = local_folder(out or place.storage), base.recipe.seed
    runs = [run for seed in range(first, first + seeds) for run in base.with_seed(seed).runs]
    stop.watch([RunDirectory(store / run.run_id) for run in runs], place.address != "local")
    with stop.tidying(place.worker_range != (0, 0)):
        result = api.train_seeds(base, seeds, cluster=place, out=out, should_stop=stop, tune_host=True)
    if not int(os.environ.get("RANK", "0")):  # under torchrun one worker speaks
        _print(result, as_json)


def _print(result: "SeedsResult", as_json: bool) -> None:
    from raykd.cli import output, summary

    if as_json:
        whole = result.runs[0] if len(result.runs) == 1 else result
        output.print_json(whole.to_dict())
    else:
        summary.print_summary(result)
