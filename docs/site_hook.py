"""What the site has beyond the files of this folder: pages from the code, and the project's own, made at each build.

What a command, a method or a configuration file may say stands in the code alone: no page of it is committed. In the
committed pages a block from ``<!-- method: NAME -->`` to ``<!-- end -->`` says where a reader of these finds it; the
site has the equations, switches and recipes in its place.
"""

import inspect
import posixpath
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from raykd.cli.app import app
from raykd.cli.command import Command
from raykd.cli.names import packaged_recipes, small_recipe
from raykd.cluster.config import Cluster
from raykd.config.describe import Field, describe_fields
from raykd.methods import METHODS
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.recipe.table import Table
from raykd.search.space import SearchSpace

PROJECT = ("CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md")
"""Pages outside of this folder, to which its pages link."""
ASSETS = ("benchmarks/figures/*", "examples/*.ipynb")
"""Pictures on them, and what a reader takes along."""
FILES: dict[str, tuple[type[BaseModel], str]] = {
    "recipe": (Recipe, "What is trained: `raykd show recipe NAME`. The fields of `method` are on its method's page."),
    "cluster": (Cluster, "Where it is trained: `raykd show cluster NAME`."),
    "search_space": (SearchSpace, "Which recipes a search tries: `raykd show space NAME`."),
    "table": (Table, "Which runs make up a published table: `raykd show table NAME`."),
}
_METHOD = re.compile(r"<!-- method: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
_LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in this folder, and write out the patterns of the navigation."""
    root = Path(config.config_file_path).parent
    for name, text in reference().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for path in [*(root / name for name in PROJECT), *sorted(path for each in ASSETS for path in root.glob(each))]:
        name = path.relative_to(root).as_posix()
        files.append(File.generated(config, f"project/{name}", abs_src_path=str(path)))
    pages = [file.src_uri for file in files.documentation_pages()]
    config.nav = _written_out(config.nav or [], pages, named=set(_named(config.nav or [])))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what the code says in the place of its marks, and lead links out of this folder to pages of the site."""
    markdown = _METHOD.sub(lambda found: method_reference(found[1]), markdown)
    source = page.file.abs_src_path
    if source is None:
        return markdown
    places = {file.abs_src_path: file.src_uri for file in files if file.abs_src_path}

    def lead(found: re.Match[str]) -> str:
        target = places.get(str((Path(source).parent / found[2]).resolve()))
        return found[1] + (posixpath.relpath(target, posixpath.dirname(page.file.src_uri)) if target else found[2])

    return _LINK.sub(lead, markdown)


def reference() -> dict[str, str]:
    """Return the pages about commands and files, by name, as Markdown."""
    pages = {name: file_page(name, model, text) for name, (model, text) in FILES.items()}
    pages |= {f"commands/{name}": command_page(name, command) for name, command in sorted(app.commands.items())}
    return pages


def file_page(name: str, model: type[BaseModel], text: str) -> str:
    """Return the page of a kind of YAML file: a table of its fields, and one of each kind of entry in its lists."""
    hidden = ("method.",) if model is Recipe else ()
    title = name.capitalize().replace("_", " ")
    parts = [f"# {title}: all fields", text]
    for prefix, section in [("", model), *_entries(model)]:
        if prefix:
            parts.append(f"## An entry of `{prefix}`\n\n{_summary(section)}")
        # The name of a whole file is that of the file.
        fields = [one for one in describe_fields(section) if not one.name.startswith(hidden)]
        parts.append(field_table([one for one in fields if (prefix, one.name) != ("", "name")]))
    return "\n\n".join(parts) + "\n"


def field_table(fields: list[Field]) -> str:
    """Return fields as a table."""
    rows = ["| field | default | what it is | type |", "|---|---|---|---|"]
    for one in fields:
        default = one.default if one.default == "required" else f"`{one.default}`"
        rows.append(f"| `{one.name}` | {default} | {_cell(one.description)} | {_cell(one.type)} |")
    return "\n".join(rows)


def command_page(name: str, command: click.Command) -> str:
    """Return the page of a command, with those of a group on one."""
    parts = []
    for level, path, one in _commands("", name, command):
        context = click.Context(one, info_name=f"raykd {path}")
        usage = " ".join([context.command_path, *one.collect_usage_pieces(context)])
        parts += [f"{'#' * level} raykd {path}", f"```text\n{usage}\n```", inspect.cleandoc(one.help or "")]
        options = [record for option in one.get_params(context) if (record := option.get_help_record(context))]
        rows = [f"| `{option}` | {_cell(text)} |" for option, text in options]
        parts.append("\n".join(["| option | |", "|---|---|", *rows]))
        if isinstance(one, Command):
            parts.append(f"For example: `{one.example.format(recipe=small_recipe())}`")
    return "\n\n".join(parts) + "\n\nHow a command ends: [exit codes](../../faults.md).\n"


def method_reference(name: str) -> str:
    """Return what the code says of a method: the text of its module, its fields, its recipes."""
    method = METHODS[name]
    text = inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
    recipes = [f"| `{each}` | {_cell(packaged_recipes()[each])} |" for each in _recipes_of().get(name, [])]
    return "\n\n".join(
        [
            "## Equations",
            text,
            "## Switches",
            field_table([one for one in describe_fields(method.config, "method.") if one.name != "method.name"])
            if len(method.config.model_fields) > 1
            else "None.",
            "## Recipes",
            "\n".join(["| recipe | |", "|---|---|", *recipes]) if recipes else "None is packaged.",
        ]
    )


@cache
def _recipes_of() -> dict[str, list[str]]:
    """Return the packaged recipes by method."""
    found: dict[str, list[str]] = {}
    for name in packaged_recipes():
        found.setdefault(load_recipe(name).method.name, []).append(name)
    return found


def _commands(
    above: str, name: str, command: click.Command, level: int = 1
) -> Iterator[tuple[int, str, click.Command]]:
    path = f"{above} {name}".strip()
    yield level, path, command
    if isinstance(command, click.Group):
        for each, inner in sorted(command.commands.items()):
            yield from _commands(path, each, inner, level + 1)


def _entries(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections that stand in lists and mappings of a section, which ``describe_fields`` does not enter."""
    for name, info in model.model_fields.items():
        dotted = f"{prefix}{name}"
        for kind, inside in _kinds(info.annotation):
            if inside:
                yield dotted, kind
            if kind is not model and not (model is Recipe and name == "method"):
                yield from _entries(kind, f"{dotted}.")


def _kinds(annotation: Any, inside: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    """Yield the sections in an annotation, and whether they stand in a list or a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, inside
    for each in get_args(annotation):
        yield from _kinds(each, inside or get_origin(annotation) in (tuple, list, dict))


def _summary(section: type[BaseModel]) -> str:
    return inspect.cleandoc(section.__doc__ or "")


def _cell(text: str) -> str:
    """Return a text as it may stand in a cell of a table."""
    text = " ".join(text.split()).replace("<", "&lt;")
    return text if "`" in text else text.replace("|", "&#124;")


def _named(nav: list[Any]) -> Iterator[str]:
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            for inner in item.values():
                yield from _named(inner if isinstance(inner, list) else [inner])


def _written_out(nav: list[Any], pages: list[str], named: set[str]) -> list[Any]:
    """Return a navigation with the pages that match in the place of each pattern, but for those that have a line."""
    found: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            found.append({title: _written_out(inner, pages, named) for title, inner in item.items()})
        elif "*" in item:
            pattern = re.escape(item).replace(r"\*", "[^/]+")
            found += sorted(page for page in pages if page not in named and re.fullmatch(pattern, page))
        else:
            found.append(item)
    return found
