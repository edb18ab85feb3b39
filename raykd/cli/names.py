"""Names that can be told, and completed by a shell, without importing anything heavy."""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib import resources
from importlib.metadata import entry_points
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from raykd.config.catalog import CLUSTERS, RECIPES, SCHEMA_LINE, SPACES, TABLES, Catalog
from raykd.errors import did_you_mean, one_line
from raykd.tracking.tracker import TRACKERS

if TYPE_CHECKING:
    WordType = click.ParamType[str]
else:
    WordType = click.ParamType  # which takes no argument before click 8.3

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
_TAKES = {"train": "recipe", "tune": "space", "table": "table"}
"""What the commands that can be submitted take first."""
_LONGEST_NAME = 255  # bytes, on all usual file systems


class StoreType(WordType):
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
        # What somebody has named so can be read, and removed.
        if not value or (one_line(value) != value and not os.path.isdir(value)):
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

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell's folders."""
        return [CompletionItem(incomplete, type="dir")]


class KindType(WordType):
    """One of several words, in the singular or the plural."""

    name = "kind"

    def __init__(self, kinds: Iterable[str]) -> None:
        """Take the words as commands know them."""
        self.kinds = tuple(kinds)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Show the words; click before 8.2 gives no context."""
        return f"{{{'|'.join(self.kinds)}}}"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """Return the word that is meant, or name the nearest."""
        meant = [kind for kind in self.kinds if value.lower().removesuffix("s") == kind.removesuffix("s")]
        if not meant:
            hint = did_you_mean(value, self.kinds)
            self.fail(f"{value!r} is none of {', '.join(self.kinds)}{hint}", parameter, context)
        return meant[0]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete one of the words."""
        return [CompletionItem(kind) for kind in self.kinds if kind.startswith(incomplete)]


def packaged_recipes() -> dict[str, str]:
    """Return the first sentence of each packaged recipe by its name; reads text only."""
    return _first_lines(RECIPES)


def packaged_tables() -> dict[str, str]:
    """Return the first sentence of each packaged table by its name; reads text only."""
    return _first_lines(TABLES)


def named_spaces() -> dict[str, str]:
    """Return the first sentence of each search space that has a name from here; reads text only."""
    return _first_lines(SPACES)


def _first_lines(catalog: Catalog) -> dict[str, str]:
    """Return the first sentence of each file of a catalog by its name: of its first comment; "" without one."""
    found = {}
    for name, path in sorted(catalog.files().items()):
        lines: list[str] = []
        with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
            comment = takewhile(lambda line: line.startswith("#"), file)
            lines = [line.lstrip("# ").rstrip() for line in comment if not line.startswith(SCHEMA_LINE)]
        found[name] = re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(lines))[0]
    return found


def _names_in(module: str, pattern: str) -> dict[str, str]:
    """Return the names that a table of the package's source has: importing it would take seconds."""
    source = (resources.files("raykd") / module).read_text(encoding="utf-8")
    return dict.fromkeys(re.findall(pattern, source, re.MULTILINE), "")


def method_names() -> dict[str, str]:
    """Return the methods of raykd and of installed packages; imports none."""
    own = _names_in("methods/__init__.py", r'^        "(\w+)": \w+,$')
    return own | dict.fromkeys((entry.name for entry in entry_points(group="raykd.methods")), "")


def data_set_names() -> dict[str, str]:
    """Return the data sets that have names; reads text only."""
    return _names_in("data/datasets.py", r'^    DataSpec\("([\w-]+)"')


def small_recipe() -> str:
    """Return a packaged recipe that needs no files and takes minutes."""
    names = list(packaged_recipes())
    return next((name for name in names if name.endswith("_digits")), names[0])


_NAMES: dict[str, Callable[[], dict[str, str]]] = {
    "recipe": packaged_recipes,
    "table": packaged_tables,
    "space": named_spaces,
    "cluster": lambda: _first_lines(CLUSTERS),
    "method": method_names,
    "data": data_set_names,
}


def complete(kind: str) -> Completion:
    """Return what completes a name of a kind, or else leaves it to the shell's files."""

    def completed(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _complete(kind, incomplete)

    return completed


def complete_shown(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a name of the kind that was given before it."""
    return _complete(ctx.params.get("kind", "recipe"), incomplete)


def complete_inner(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the words of a command inside another: the command, then the name that it takes."""
    before = ctx.params.get("words") or ()
    if not before:
        return [CompletionItem(word) for word in _TAKES if word.startswith(incomplete)]
    return _complete(_TAKES[before[0]], incomplete) if len(before) == 1 and before[0] in _TAKES else []


def _complete(kind: str, incomplete: str) -> list[CompletionItem]:
    found = [CompletionItem(n, help=d) for n, d in _NAMES[kind]().items() if n.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


cluster_option = partial(click.option, "--cluster", metavar="NAME|FILE", shell_complete=complete("cluster"))
"""The option that says where; a command says in ``help`` what it means without."""
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Of the arithmetic; default: the cluster's, else fp32.",
)
tracker_option = click.option(
    "--tracker",
    type=click.Choice(TRACKERS),
    multiple=True,
    help="Told how the runs go, beside the cluster's; may be given twice.",
)
