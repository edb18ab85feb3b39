"""``raykd list``: the names that other commands take."""

from collections.abc import Callable, Iterable
from typing import Any

import click

from raykd.cli.command import Command
from raykd.cli.names import KindType, named_spaces, packaged_recipes, packaged_tables
from raykd.config.data_root import data_folder

Entry = dict[str, Any]


def _methods() -> Iterable[Entry]:
    import sys

    from raykd.errors import SetupError
    from raykd.methods import METHODS

    for name in METHODS.names():
        try:
            method = METHODS[name]
        except SetupError as error:  # of a package whose other methods, and raykd's, are there all the same
            yield {"name": name, "description": str(error), "streams": []}
        else:
            first = _first_line(sys.modules[method.__module__].__doc__)
            yield {"name": name, "description": first, "streams": list(method.streams)}


def _models() -> Iterable[Entry]:
    from raykd.models import MODELS

    for name, build in MODELS.items():
        first = _first_line(getattr(build, "func", build).__doc__)
        settings = ", ".join(f"{k} {v}" for k, v in getattr(build, "keywords", {}).items())
        yield {"name": name, "description": f"{first} ({settings})" if settings else first}
    yield {"name": "wrn_<depth>_<width>", "description": "Wide ResNet of any depth 6n+4 and width."}
    yield {"name": "torchvision/<name>", "description": "A classifier of torchvision."}
    yield {"name": "timm/<name>", "description": "A classifier of timm (raykd[timm])."}
    yield {"name": "hf/<folder>", "description": "A teacher: what transformers saved there (raykd[transformers])."}


def _datasets() -> Iterable[Entry]:
    from raykd.tasks.doctor import data_sets

    for name, spec, splits, fault in data_sets(data_folder()):
        if spec is None:
            description = str(fault)
        else:
            shape = f"{spec.channels}x{spec.size}x{spec.size}, {spec.num_classes} classes"
            description = f"{shape}; {', '.join(splits) if splits else 'not under the data root'}"
        yield {"name": name, "description": description, "splits": splits}


def _recipes() -> Iterable[Entry]:
    for name, description in packaged_recipes().items():
        yield {"name": name, "description": description}


def _tables() -> Iterable[Entry]:
    for name, description in packaged_tables().items():
        yield {"name": name, "description": description}


def _spaces() -> Iterable[Entry]:
    for name, description in named_spaces().items():
        yield {"name": name, "description": description}


def _clusters() -> Iterable[Entry]:
    from raykd.cluster.config import cluster_names, load_cluster
    from raykd.errors import UsageError

    for name in cluster_names():
        try:
            cluster = load_cluster(name)
        except UsageError as error:  # one bad file hides no other
            yield {"name": name, "description": str(error)}
            continue
        low, high = cluster.worker_range
        workers = f"{low}" if low == high else f"{low} to {high}"
        gpus = f", {cluster.gpus_per_worker:g} GPU each" if cluster.gpus_per_worker else ""
        where = "this machine" if cluster.address == "local" else f"address {cluster.address}"
        yield {"name": name, "description": f"{workers} workers{gpus} on {where}"}


_KINDS: dict[str, Callable[[], Iterable[Entry]]] = {
    "methods": _methods,
    "models": _models,
    "datasets": _datasets,
    "recipes": _recipes,
    "tables": _tables,
    "spaces": _spaces,
    "clusters": _clusters,
}


@click.command("list", cls=Command, example="raykd list recipes")
@click.argument("kind", type=KindType(_KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(kind: str, as_json: bool) -> None:
    """List what there is of KIND, with a line on each."""
    from raykd.cli import output

    entries = list(_KINDS[kind]())
    if as_json:
        output.print_json({kind: entries})
    else:
        output.print_pairs({entry["name"]: entry["description"] for entry in entries})


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
