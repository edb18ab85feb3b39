"""``raykd doctor``: what this machine has and lacks, and whether a training here outlives what happens to it."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raykd.cli.command import Command
from raykd.cli.names import StoreType, cluster_option, complete
from raykd.cli.stop import Stop
from raykd.config.data_root import data_folder

if TYPE_CHECKING:
    from raykd.cluster.config import Cluster
    from raykd.tasks.certificate import Certificate

_FOLDER = "chaos"


@click.command(cls=Command, example="raykd doctor")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--chaos",
    metavar="RECIPE",
    shell_complete=complete("recipe"),
    help="Train it undisturbed, then under faults, and compare the weights.",
)
@click.option("--faults", type=click.IntRange(min=1), default=6, help="How many; default: 6.")
@click.option("--seed", type=int, default=0, help="Of kinds and moments of the faults.")
@cluster_option(help="Where to train under faults, as of train; on this machine.")
@click.option(
    "--nodes",
    type=int,
    metavar="N",
    help="Start a Ray of N nodes on this machine for it, 2 or more, and lose some in the training.",
)
@click.option(
    "--out",
    type=StoreType(),
    help="Folder of the certificate, chaos.json, and of what led to it; default: chaos. With an address such as "
    "s3://BUCKET/FOLDER it trains there, and the certificate is in chaos.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(
    ctx: click.Context,
    overrides: tuple[str, ...],
    chaos: str | None,
    faults: int,
    seed: int,
    cluster: str | None,
    nodes: int | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Check versions, hardware, libraries, data and disk.

    The exit code is 3 if something needed is broken.

    With --chaos a recipe, a table (at its quick budget) or a search space is run twice, each time in a store of its
    own: once undisturbed, and once killed, stopped, without room on the disk and with damaged checkpoints, at moments
    within its training, and started again each time. An object store whose endpoint is http:// is cut off, too. With
    --nodes it trains on several nodes of Ray, started here for it alone; one is killed with all on it, and comes back
    when the others have gone on without it, or could not. The exit code is 0 if the weights are equal in the end.
    Weights that were trained by another number of workers for a time (workers: [min, max]) are not compared.
    """
    from raykd.cli import output

    if chaos is not None:
        certificate = _certify(ctx.ensure_object(Stop), chaos, overrides, faults, seed, cluster, nodes, out, as_json)
        if not certificate.ok:
            ctx.exit(1)
        return
    if overrides:
        raise click.UsageError("KEY=VALUE goes with --chaos RECIPE.")
    if nodes is not None:
        raise click.UsageError("--nodes goes with --chaos RECIPE.")
    from raykd.tasks.doctor import diagnose

    result = diagnose(data_folder(), Path("runs"))
    if as_json:
        output.print_json(result)
    else:
        output.print_pairs({check["name"]: check["value"] for check in result["checks"]})
        for check in result["checks"]:
            if check["advice"]:
                output.echo(f"{check['state']}: {check['name']}: {check['advice']}", err=True)
    if not result["ok"]:
        ctx.exit(3)


def _certify(
    stop: Stop,
    name: str,
    overrides: tuple[str, ...],
    faults: int,
    seed: int,
    cluster: str | None,
    nodes: int | None,
    out: str | None,
    as_json: bool,
) -> "Certificate":
    from raykd.cli import output
    from raykd.cluster.config import choose_cluster
    from raykd.errors import UsageError
    from raykd.store.remote import is_remote, join
    from raykd.tasks.chaos import certify
    from raykd.tasks.nodes import check_nodes

    verb, arguments = _command_of(name, overrides)
    place = choose_cluster(cluster, workers=nodes or 0 if verb == "train" else 1)
    if place.address != "local":
        raise UsageError(
            f"cluster {place.name!r} is elsewhere, and --chaos would kill workers and nodes that others use: give a "
            "cluster file with `address: local`, and --nodes N for a Ray of several nodes on this machine"
        )
    if nodes is not None:
        check_nodes(place, nodes)
    elif verb == "tune" and place.study is not None:
        raise UsageError(
            f"cluster {place.name!r}: leave out `study` for the proof: a search is run twice, and in one study the "
            "second would find the trials of the first"
        )
    out = out or (join(place.storage, _FOLDER) if is_remote(place.storage) else _FOLDER)
    store, folder = (out, Path(_FOLDER)) if is_remote(out) else (None, Path(out))
    with stop.tidying():
        certificate = certify(
            [verb, *arguments, *(["--cluster", cluster] if cluster and nodes is None else [])],
            folder, faults=faults, seed=seed, workers=place.worker_range != (0, 0), store=store,
            in_order=verb != "tune" or _trains_in_order(name, overrides, place, nodes),
            nodes=(place, nodes) if nodes is not None else None,
            show=lambda line: output.echo(line, err=True),
        )  # fmt: skip
    if as_json:
        output.print_json(certificate.to_dict())
    else:
        _print(certificate, folder)
    return certificate


def _trains_in_order(name: str, overrides: tuple[str, ...], place: "Cluster", nodes: int | None) -> bool:
    """Tell whether the trials of a search do not depend on which of them ends first."""
    from raykd.search.space_file import load_space

    space = load_space(name, overrides)
    stages = [space, *([space.then] if space.then else [])]
    if all(stage.sampler.name in ("random", "grid") and stage.scheduler.name == "none" for stage in stages):
        return True
    if nodes is not None:  # each has room for its part of the workers, so there is for two trials if that is rounded up
        return nodes * math.ceil(place.worker_range[1] / nodes) < 2 * place.worker_range[1]
    return (os.cpu_count() or 1) < 2 * place.cpus_per_worker * max(1, place.worker_range[1])


def _command_of(name: str, overrides: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the verb and the arguments that train what a name means: a recipe, a table or a search space."""
    from raykd.errors import UsageError
    from raykd.recipe.recipe import load_recipe
    from raykd.recipe.table import load_table
    from raykd.search.space_file import load_space

    errors = []
    readers: dict[str, Callable[[], object]] = {
        "train": lambda: load_recipe(name, overrides),
        "table": lambda: load_table(name),
        "tune": lambda: load_space(name, overrides),
    }
    for verb, read in readers.items():
        try:
            read()
        except UsageError as error:
            errors.append(error)
            continue
        if verb == "table" and overrides:
            raise UsageError("a table has its own budget: leave out KEY=VALUE")
        return verb, [name, *(["--quick"] if verb == "table" else overrides)]
    if Path(name).is_file():
        raise UsageError(f"{name} is no recipe ({errors[0]}), no table ({errors[1]}) and no search space ({errors[2]})")
    raise errors[0]


def _print(certificate: "Certificate", out: Path) -> None:
    from raykd.cli import output

    rows = [
        [
            event.kind, event.target, event.run, str(event.at_step), _text(event.resumed_from),
            _text(event.steps_lost), _text(event.seconds_to_recover), _text(event.workers), _text(event.exit_code),
            Path(event.file or "").name,
        ]
        for event in certificate.events
    ]  # fmt: skip
    columns = ["fault", "of", "run", "at step", "resumed from", "lost", "seconds", "workers", "exit code", "damaged"]
    output.print_table(f"raykd {' '.join(certificate.command)}, seed {certificate.seed}", columns, rows)
    for what, reason in certificate.left_out.items():
        output.echo(f"- left out: {what}: {reason}")
    weights = certificate.weights
    named = {"different": weights["different"], "in one store alone": weights["in_one_store"]}
    named["not to be compared (trained by another number of workers for a time)"] = weights["not_comparable"]
    output.print_pairs(
        {
            "starts": certificate.starts,
            "seconds": ", ".join(f"{name} {seconds:.0f}" for name, seconds in certificate.seconds.items()),
            "weights": "; ".join(
                [
                    f"{weights['equal']} files equal",
                    *(f"{how}: {', '.join(names)}" for how, names in named.items() if names),
                ]
            ),
            "wrong": "; ".join(certificate.faults_of_ours) or "nothing",
            "verdict": certificate.verdict,
            "certificate": out / "chaos.json",
        }
    )


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
