"""``raykd show``: what stands in the files that have names, and what may stand there."""

from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command
from raykd.cli.names import KindType, complete_shown
from raykd.config.catalog import CLUSTERS, RECIPES, SPACES, TABLES

if TYPE_CHECKING:
    from pydantic import BaseModel

_CATALOGS = {"recipe": RECIPES, "space": SPACES, "cluster": CLUSTERS, "table": TABLES}
_METHOD = "method"
_WIDEST_DEFAULT = 16


@click.command(cls=Command, example="raykd show recipe {recipe} --resolved")
@click.argument("kind", type=KindType([*_CATALOGS, _METHOD]))
@click.argument("name", shell_complete=complete_shown)
@click.option("--resolved", is_flag=True, help="All of it: what it extends merged, defaults filled in.")
@click.option("--schema", is_flag=True, help="What may stand there, as a JSON Schema.")
def show(kind: str, name: str, resolved: bool, schema: bool) -> None:
    """Print the YAML of a recipe, search space, cluster or table, or the fields of a method.

    NAME is one of `raykd list KIND`, or a YAML file; a file of yours may begin as a copy of one.
    """
    from raykd.cli import output
    from raykd.config.yaml_file import dump_yaml, read_text
    from raykd.errors import UsageError

    if resolved and schema:
        raise UsageError("give --resolved or --schema, not both")
    file = None if kind == _METHOD else _CATALOGS[kind].find(name)
    if schema:
        output.print_json(_model(kind, name).model_json_schema())
    elif resolved:
        output.echo(dump_yaml(_resolved(kind, name)).rstrip())
    elif file is not None:
        output.echo(read_text(file).rstrip())
    else:
        _print_fields(name, _model(kind, name))


def _model(kind: str, name: str) -> "type[BaseModel]":
    """Return the type of what stands in such a file, or of a method's section."""
    from raykd.cluster.config import Cluster
    from raykd.methods import METHODS
    from raykd.recipe.recipe import Recipe
    from raykd.recipe.table import Table
    from raykd.search.space import SearchSpace

    if kind == _METHOD:
        return METHODS[name].config
    models: dict[str, type[BaseModel]] = {"recipe": Recipe, "table": Table, "space": SearchSpace, "cluster": Cluster}
    return models[kind]


def _resolved(kind: str, name: str) -> dict[str, Any]:
    """Return the whole content: what it extends merged, defaults filled in.

    Raises:
        UsageError: if it is not valid, or a method has fields without a default.
    """
    from pydantic import ValidationError

    from raykd.cluster.config import load_cluster
    from raykd.config.yaml_file import explain
    from raykd.recipe.recipe import load_recipe
    from raykd.recipe.table import load_table
    from raykd.search.space_file import load_space

    if kind == "recipe":
        return load_recipe(name).model_dump(mode="json")
    if kind == "space":
        space = load_space(name)
        # A population has no sampler, and refuses one that is stated.
        return space.model_dump(mode="json", exclude={"name", *({"sampler"} if space.scheduler.name == "pbt" else ())})
    if kind != _METHOD:
        loaded = load_table(name) if kind == "table" else load_cluster(name)
        return loaded.model_dump(mode="json", exclude={"name"})  # which is that of the file
    config = _model(kind, name)
    try:
        return config.model_validate({"name": name}).model_dump(mode="json")
    except ValidationError as error:
        raise explain(error, f"method {name} by its name alone", config, {"name": name}) from None


def _print_fields(name: str, config: "type[BaseModel]") -> None:
    """Print a method's fields, each with its default, what it means and what it may be."""
    import sys

    from raykd.cli import output
    from raykd.config.describe import describe_fields
    from raykd.methods import METHODS

    module = METHODS[name].__module__
    output.echo(
        f"# {(sys.modules[module].__doc__ or '').strip().partition(chr(10))[0]} (equations and units: {module})"
    )
    fields = list(describe_fields(config))
    default = max(min(len(field.default), _WIDEST_DEFAULT) for field in fields)
    output.print_pairs(
        {f"method.{one.name}": f"{one.default:<{default}}  {one.description} [{one.type}]" for one in fields}
    )
