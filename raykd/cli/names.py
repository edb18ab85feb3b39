"""Names that can be told without importing anything heavy: of recipes, tables and stores."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from raykd.errors import printable

_LONGEST_NAME = 255  # bytes, on all usual file systems


class StoreType(click.ParamType[str]):
    """A folder's path, or an address such as s3://BUCKET/FOLDER."""

    name = "directory"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """Refuse a file, and an address that is none."""
        if "://" in value:
            from raykd.errors import UsageError
            from raykd.store.remote import check_address

            try:
                return check_address(value)
            except UsageError as error:
                self.fail(str(error), parameter, context)
        if not value or printable(value) != value or "\n" in value:
            self.fail(f"{value!r} is no folder's name: it is empty, or has control characters.", parameter, context)
        for part in Path(value).parts:
            if len(part.encode(errors="surrogateescape")) > _LONGEST_NAME:
                self.fail(
                    f"{part[:20]!r}... is no folder's name: it has {len(part)} letters, and {_LONGEST_NAME} bytes are "
                    "allowed.",
                    parameter,
                    context,
                )
        if os.path.isfile(value):  # which tells no error of a path that is too long; who writes there does
            self.fail(f"Directory {value!r} is a file.", parameter, context)
        return str(value)


def packaged_recipes() -> dict[str, str]:
    """Return the first comment line of each packaged recipe by its name; reads text only."""
    return _packaged("recipes")


def packaged_tables() -> dict[str, str]:
    """Return the first comment line of each packaged table by its name; reads text only."""
    return _packaged("tables")


def _packaged(kind: str) -> dict[str, str]:
    folder = resources.files("raykd") / kind
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            first = file.read_text(encoding="utf-8").partition("\n")[0]
            found[file.name.removesuffix(".yaml")] = first.lstrip("# ") if first[:1] == "#" else ""
    return found


def small_recipe() -> str:
    """Return a packaged recipe that needs no files and takes minutes."""
    names = list(packaged_recipes())
    return next((name for name in names if name.endswith("_digits")), names[0])


def complete_recipe(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a recipe's name, or else leave it to the shell's files."""
    return _complete(packaged_recipes(), incomplete)


def complete_table(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a table's name, or else leave it to the shell's files."""
    return _complete(packaged_tables(), incomplete)


def _complete(names: dict[str, str], incomplete: str) -> list[CompletionItem]:
    found = [CompletionItem(n, help=d) for n, d in names.items() if n.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
