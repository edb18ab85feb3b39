"""``raykd show`` and ``raykd config``: what stands in the files that have names, and what may stand there."""

from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command
from raykd.cli.names import KindType, complete, complete_shown
from raykd.config.catalog import CLUSTERS, RECIPES, SPACES, TABLES
from raykd.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

_CATALOGS = {"recipe": RECIPES, "space": SPACES, "cluster": CLUSTERS, "table": TABLES}
_METHOD = "method"
_WIDEST_DEFAULT = 16

_resolved_option = click.option(
    "--resolved", is_flag=True, help="All of it: what it extends merged, defaults filled in."
)
_schema_option = click.option("--schema", is_flag=True, help="What may stand in such a file, as a JSON Schema.")


@click.command(cls=Command, example="raykd show recipe {recipe} --resolved")
@click.argument("kind", type=KindType([*_CATALOGS, _METHOD]))
@click.argument("name", shell_complete=complete_shown)
@_resolved_option
@click.option("--diff", metavar="OTHER", shell_complete=complete_shown, help="In which fields it differs from OTHER.")
@_schema_option
def show(kind: str, name: str, resolved: bool, diff: str | None, schema: bool) -> None:
    """Print the YAML of a recipe, search space, cluster or table, or the fields of a method.

    NAME is one of `raykd list KIND`, or a YAML file; a file of yours may begin as a copy of one.
    """
    _print(kind, name, (), resolved=resolved, diff=diff, schema=schema)


@click.command(cls=Command, example="raykd config {recipe} schedule.steps=500 --diff {recipe}")
@click.argument("recipe", shell_complete=complete("recipe"))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@_resolved_option
@click.option(
    "--diff", metavar="OTHER", shell_complete=complete("recipe"), help="In which fields it differs from OTHER."
)
@_schema_option
def config(recipe: str, overrides: tuple[str, ...], resolved: bool, diff: str | None, schema: bool) -> None:
    """Print a recipe as `raykd show recipe` does, with fields set by KEY=VALUE as `raykd train` takes them.

    Such a recipe stands in no file, so that it is printed --resolved. The recipe of a run is runs/RUN/recipe.yaml.
    """
    if schema and overrides:
        raise UsageError(f"--schema tells what any recipe may hold, whatever is set in one: leave out {overrides[0]!r}")
    _print("recipe", recipe, overrides, resolved=resolved, diff=diff, schema=schema)


def _print(kind: str, name: str, overrides: tuple[str, ...], *, resolved: bool, diff: str | None, schema: bool) -> None:
    """Print what one of the options asks for, else the file as it stands, or the fields of a method."""
    from raykd.cli import output
    from raykd.config.differences import differences
    from raykd.config.file_schema import without_schema_line
    from raykd.config.yaml_file import dump_yaml, read_text

    if resolved + (diff is not None) + schema > 1:
        raise UsageError("give one of --resolved, --diff (which compares what is resolved) and --schema")
    file = None if kind == _METHOD else _CATALOGS[kind].find(name)
    if schema:
        output.print_json(_schema(kind, name))
    elif diff is not None:
        found = differences(_resolved(kind, name, overrides), _resolved(kind, diff))
        rows = [[key, *values] for key, values in found.items()]
        if rows:
            output.print_table("", ["field", " ".join([name, *overrides]), diff], rows, numbers=False)
        else:
            output.echo(f"{name} and {diff} do not differ")
    elif resolved or overrides:
        output.print_text(dump_yaml(_resolved(kind, name, overrides)).rstrip())
    elif file is not None:
        output.print_text(without_schema_line(read_text(file)).rstrip())
    else:
        _print_fields(name, _config_of(name))


def _config_of(method: str) -> "type[BaseModel]":
    from raykd.methods import METHODS

    return METHODS[method].config


def _schema(kind: str, name: str) -> dict[str, Any]:
    """Return the schema of the files of a kind, or of a method's section."""
    from raykd.cluster.config import Cluster
    from raykd.config.file_schema import file_schema
    from raykd.recipe.recipe_schema import recipe_schema
    from raykd.recipe.table import Table
    from raykd.search.space import SearchSpace

    if kind == _METHOD:
        return _config_of(name).model_json_schema()
    if kind == "recipe":
        return recipe_schema()
    models: dict[str, type[BaseModel]] = {"table": Table, "space": SearchSpace, "cluster": Cluster}
    return file_schema(models[kind])


def _resolved(kind: str, name: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the whole content: what it extends merged, defaults filled in; ``overrides`` are of a recipe.

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
        return load_recipe(name, overrides).model_dump(mode="json")
    if kind == "space":
        space = load_space(name)
        # A population has no sampler, and refuses one that is stated.
        return space.model_dump(mode="json", exclude={"name", *({"sampler"} if space.scheduler.name == "pbt" else ())})
    if kind != _METHOD:
        loaded = load_table(name) if kind == "table" else load_cluster(name)
        return loaded.model_dump(mode="json", exclude={"name"})  # which is that of the file
    section = _config_of(name)
    try:
        return section.model_validate({"name": name}).model_dump(mode="json")
    except ValidationError as error:
        raise explain(error, f"method {name} by its name alone", section, {"name": name}) from None


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
