"""``raykd runs``: what a store holds; runs beside each other; what they take on the disk; and removing them."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command
from raykd.cli.names import StoreType, complete
from raykd.errors import UsageError

if TYPE_CHECKING:
    from raykd.results import Figures, RunUsage, StoredRun, StoredSearch, StoredTable
    from raykd.store.inventory import Inventory, RunRecord
    from raykd.store.removal import Removal

_COLUMNS = {
    "run": "run", "method": "method", "teacher": "teacher", "student": "student", "state": "state", "step": "step",
    "top1": "blind top-1 %", "agreement": "agreement %", "seconds": "seconds", "ended": "ended", "size": "size",
}  # fmt: skip
_STATES = ("finished", "running", "killed", "interrupted", "failed", "pruned", "unknown", "damaged")
_RESULTS = {"top1": "top-1 %", "agreement": "agreement %", "kl": "KL nats"}
_STORE = "runs"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class _Listing(click.Group):
    """A group of which the bare name, or its options alone, is ``list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asks_help = any(name in args for name in self.get_help_option_names(ctx))
        bare = not args or (args[0].startswith("-") and not asks_help)
        return super().parse_args(ctx, ["list", *args] if bare else args)


@click.group(cls=_Listing)
def runs() -> None:
    """List, compare, measure and remove the runs of a store; alone it lists those in ./runs."""


@runs.command("list", cls=Command, example="raykd runs list --sort top1 --reverse")
@click.argument("store", default=_STORE, type=StoreType())
@click.option("--sort", type=click.Choice(list(_COLUMNS)), default="run", help="By which column; default: run.")
@click.option("--reverse", is_flag=True, help="The largest first; rows without a value stay last.")
@click.option("--method", metavar="NAME", shell_complete=complete("method"), help="Only runs of this method.")
@click.option("--state", type=click.Choice(_STATES), help="Only runs in this state.")
@_JSON
def list_(store: str, sort: str, reverse: bool, method: str | None, state: str | None, as_json: bool) -> None:
    """List the runs of STORE (default: runs), with its searches and tables.

    STORE may be an address, such as s3://BUCKET/FOLDER. The figures are those of the blind-selected student. A run is
    killed if it ran and no process is at it any more. What is damaged is listed too, with what is wrong with it.
    """
    from raykd.cli import output
    from raykd.store.inventory import take_inventory

    inventory = take_inventory(store)
    rows = [run.row for run in inventory.runs if method in (None, run.row.method) and state in (None, run.row.state)]
    rows = _sorted(rows, sort, reverse)
    others = method is None and state is None
    searches, tables = ([one.row for one in made] if others else [] for made in (inventory.searches, inventory.tables))
    if as_json:
        output.print_json(
            {
                "store": inventory.location,
                "runs": [row.to_dict() for row in rows],
                "searches": [row.to_dict() for row in searches],
                "tables": [row.to_dict() for row in tables],
            }
        )
        return
    if not (rows or searches or tables):
        output.echo(f"{store} holds no such runs" if not others else f"{store} holds no runs")
    if rows:
        output.print_columns([*_COLUMNS.values()], [_cells(row) for row in rows])
    _print_made(inventory, others)
    for row in (*rows, *searches, *tables):
        if row.damaged is not None:
            output.echo(f"- {row.damaged}")


def _sorted(rows: "Sequence[StoredRun]", column: str, reverse: bool) -> "list[StoredRun]":
    """Return rows by a column; those without a value are last either way."""
    known = [row for row in rows if getattr(row, column) is not None]
    return [
        *sorted(known, key=lambda row: getattr(row, column), reverse=reverse),
        *(row for row in rows if getattr(row, column) is None),
    ]


def _cells(row: "StoredRun") -> list[str]:
    from raykd.cli.output import format_count, format_figure
    from raykd.files import gib

    return [
        row.run,
        row.method or "",
        row.teacher or "",
        row.student or "",
        row.state,
        "" if row.step is None else format_count(row.step),
        format_figure(row.top1),
        format_figure(row.agreement),
        "" if row.seconds is None else format_count(row.seconds),
        _moment(row.ended),
        gib(row.size),
    ]


def _moment(seconds: float | None) -> str:
    from raykd.reporting.pages.page import format_time

    return "" if seconds is None else format_time(seconds)


def _print_made(inventory: "Inventory", others: bool) -> None:
    """Print the searches and the tables of a store."""
    from raykd.cli import output
    from raykd.files import gib
    from raykd.results import StoredSearch, StoredTable

    searches = [one.row for one in inventory.searches if isinstance(one.row, StoredSearch)]
    if searches and others:
        lines = []
        output.echo("")
        for one in searches:
            trials = "" if one.trials is None else f"{one.trials} of {one.target}"
            best = "" if one.best is None else f"{one.best:.4g} {one.objective}"
            lines.append(
                [one.search, one.recipe or _without_record(one), trials, best, _moment(one.updated), gib(one.size)]
            )
        output.print_columns(["search", "recipe", "trials", "best", "updated", "size"], lines)
    tables = [one.row for one in inventory.tables if isinstance(one.row, StoredTable)]
    if tables and others:
        lines = []
        output.echo("")
        for table in tables:
            done = "" if table.wanted is None else f"{table.finished} of {table.wanted}"
            lines.append([table.table, table.title or _without_record(table), done, gib(table.size)])
        output.print_columns(["table", "title", "runs", "size"], lines)


def _without_record(one: "StoredSearch | StoredTable") -> str:
    return "no report yet" if one.damaged is None else "damaged"


@runs.command(cls=Command, example="raykd runs compare runs/RUN runs/OTHER")
@click.argument("where", metavar="RUN RUN...", nargs=-1, required=True, type=StoreType())
@_JSON
def compare(where: tuple[str, ...], as_json: bool) -> None:
    """Show in which fields the recipes of runs differ, and what they came to, a column for each run.

    RUN may be an address, such as s3://BUCKET/FOLDER/RUN. `raykd report RUN RUN...` draws their curves.
    """
    from raykd.cli import output
    from raykd.config.differences import differences
    from raykd.errors import CorruptError
    from raykd.store.inventory import take_run

    if len(where) < 2:
        raise UsageError("give two runs at least; `raykd report RUN` shows one")
    found = [take_run(one, alone=True)[1] for one in where]
    for run in found:
        if run.experiment is None or run.row.damaged is not None:
            raise CorruptError(str(run.row.damaged))
    recipes = [run.experiment.recipe.model_dump(mode="json") for run in found if run.experiment is not None]
    fields = differences(*recipes)
    results = [run.result for run in found]
    if as_json:
        told = [None if result is None else result.to_dict() for result in results]
        output.print_json({"runs": [run.name for run in found], "differences": fields, "results": told})
        return
    names = [run.name for run in found]
    if fields:
        output.print_table("", ["field", *names], [[key, *values] for key, values in fields.items()], numbers=False)
    else:
        output.echo("the recipes do not differ")
    output.print_table("", ["result", *names], _result_rows(found))


def _result_rows(found: "Sequence[RunRecord]") -> list[list[str]]:
    """Return what runs came to: a line for each figure, a column for each run."""
    from raykd.cli.output import format_count, format_figure
    from raykd.files import gib
    from raykd.results import SELECTIONS

    rows = [["state", *(run.row.state for run in found)]]
    rows.append(["step", *("" if run.row.step is None else format_count(run.row.step) for run in found)])
    rows.append(["teacher's run", *(_teacher_run(run) for run in found)])
    rows.append(["selected", *((run.result and run.result.selected) or "" for run in found)])
    for name in (*SELECTIONS, "teacher"):
        for figure, title in _RESULTS.items():
            values = [_figure(run, name, figure) for run in found]
            if any(value is not None for value in values):
                rows.append([f"{name}: {title}", *map(format_figure, values)])
    for cost in ("images", "seconds"):
        costs = [None if run.result is None else getattr(run.result, cost) for run in found]
        rows.append([cost, *("" if value is None else format_count(value) for value in costs)])
    return [*rows, ["size", *(gib(run.row.size) for run in found)]]


def _teacher_run(run: "RunRecord") -> str:
    source = run.experiment.teacher if run.experiment is not None else None
    return "" if source is None else source.run_id


def _figure(run: "RunRecord", network: str, name: str) -> float | None:
    figures: Figures | None = getattr(run.result, network, None)
    return None if figures is None else getattr(figures, name)


@runs.command(cls=Command, example="raykd runs du runs")
@click.argument("where", metavar="[STORE|RUN]", default=_STORE, type=StoreType())
@_JSON
def du(where: str, as_json: bool) -> None:
    """Tell what a store (default: runs) or a run holds on the disk, and what builds on it.

    Weights are the student's; those that runs share lie in `weights` of the store. A file that several runs hold by
    links counts once in the sum. Either may be an address, such as s3://BUCKET/FOLDER.
    """
    from raykd.cli import output
    from raykd.store.dependents import store_usage
    from raykd.store.inventory import take_inventory, take_run

    if _is_run(where):
        inventory, run = take_run(where, alone=False)
        usage = next(one for one in store_usage(inventory).runs if one.run == run.name)
        if as_json:
            output.print_json(usage.to_dict())
        else:
            output.print_pairs(_usage_pairs(usage))
        return
    total = store_usage(take_inventory(where))
    if as_json:
        output.print_json(total.to_dict())
        return
    _print_usage(total.runs, total.parts, total.shared, total.size)


def _print_usage(
    usages: "Sequence[RunUsage]", parts: dict[str, int], shared: "dict[str, int] | Any", size: int
) -> None:
    from raykd.cli import output
    from raykd.files import gib

    def shown(amount: int) -> str:
        return gib(amount) if amount else ""

    rows = [
        [one.run, *(shown(one.parts.get(part, 0)) for part in parts), gib(one.size), str(len(one.dependents) or "")]
        for one in sorted(usages, key=lambda one: -one.size)
    ]
    rows += [[f"{name}/", *("" for _ in parts), gib(amount), ""] for name, amount in shared.items()]
    rows.append(["all", *(shown(amount) for amount in parts.values()), gib(size), ""])
    output.print_columns(["run", *parts, "size", "needed by"], rows)


def _usage_pairs(usage: "RunUsage") -> dict[str, str]:
    """Return what a run holds and what builds on it, for a reader."""
    from raykd.files import gib

    needed = {
        f"needed by {number}": f"{one.kind} {one.name} (its {one.role})"
        for number, one in enumerate(usage.dependents, start=1)
    }
    parts = {name: gib(size) for name, size in usage.parts.items()}
    uses = {"uses": ", ".join(usage.uses)} if usage.uses else {}
    return {"run": usage.run, **parts, "size": gib(usage.size), **uses, **needed}


@runs.command(cls=Command, example="raykd runs rm runs/RUN --dry-run")
@click.argument("where", metavar="[RUN]...", nargs=-1, type=StoreType())
@click.option("--unused-weights", is_flag=True, help="Instead of RUN: a store, of whose `weights` no run uses a file.")
@click.option("--force", is_flag=True, help="Also what other runs, searches or tables build on.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(where: tuple[str, ...], unused_weights: bool, force: bool, dry_run: bool, yes: bool) -> None:
    """Remove runs, after telling what they hold and what builds on them.

    A run that a process is at is never removed, and one that others build on only by --force; those that are given
    together may build on each other. With --unused-weights the files in `weights` of a store (default: runs) go that no
    run of it uses and that are older than a day.
    """
    if unused_weights:
        if len(where) > 1:
            raise UsageError(f"--unused-weights takes one store, and got {len(where)}: give them one after the other")
        _remove_weights(where[0] if where else _STORE, dry_run, yes)
        return
    if not where:
        raise UsageError("give the runs to remove, as in runs/RUN; `raykd runs list` shows them")
    _remove_runs(where, force, dry_run, yes)


def _remove_runs(where: Sequence[str], force: bool, dry_run: bool, yes: bool) -> None:
    from raykd.cli import output
    from raykd.files import gib
    from raykd.store.inventory import take_inventory
    from raykd.store.moved_aside import remove_run
    from raykd.store.removal import plan_removal, run_to_remove
    from raykd.store.run_directory import RunDirectory

    stores: dict[Path, list[str]] = {}
    spelled: dict[Path, Path] = {}  # a store may be named in several ways
    for store, name in map(run_to_remove, where):
        stores.setdefault(spelled.setdefault(store.resolve(), store), []).append(name)
    removals: dict[Path, Removal] = {}
    for store, names in stores.items():
        removals[store] = plan_removal(_describe(store, names), list(dict.fromkeys(names)))
    _require_free(removals.values(), force)
    count = sum(len(removal.names) for removal in removals.values())
    size = sum(removal.size for removal in removals.values())
    if not _is_agreed(f"{count} run{'s' if count > 1 else ''}, {gib(size)}", dry_run, yes):
        return
    # Until somebody answered, a run may have begun that builds on them.
    _require_free((plan_removal(take_inventory(store), one.names) for store, one in removals.items()), force)
    for store, removal in removals.items():
        for name in removal.names:
            remove_run(RunDirectory(store / name))
            output.echo(f"removed {store / name}")


def _require_free(removals: "Iterable[Removal]", force: bool) -> None:
    for removal in () if force else removals:
        removal.require_free()


def _describe(store: Path, names: Sequence[str]) -> "Inventory":
    """Print what runs of a store hold and what builds on them; return what the store holds."""
    from raykd.cli import output
    from raykd.store.dependents import dependents_of, run_usage
    from raykd.store.inventory import take_inventory

    inventory = take_inventory(store)
    dependents = dependents_of(inventory)
    for name in dict.fromkeys(names):
        output.print_pairs(_usage_pairs(run_usage(inventory.run(name), inventory, dependents)))
    return inventory


def _remove_weights(store: str, dry_run: bool, yes: bool) -> None:
    from raykd.cli import output
    from raykd.files import gib, writing
    from raykd.store.inventory import take_inventory
    from raykd.store.remote import is_remote
    from raykd.store.removal import unused_weights

    if is_remote(store):
        raise UsageError(f"{store} is an object store, which knows no locks: name a store that is a folder")
    found = list(unused_weights(take_inventory(store), Path(store)))
    size = 0
    for path in found:
        size += path.stat().st_size
        output.echo(str(path))
    if not found:
        output.echo(f"no weights of {store} are unused for more than a day")
    elif _is_agreed(f"{len(found)} file{'s' if len(found) > 1 else ''}, {gib(size)}", dry_run, yes):
        # Until somebody answered, a run may have begun that uses them.
        unused = set(unused_weights(take_inventory(store), Path(store)))
        with writing(f"into {store}"):
            for path in unused.intersection(found):
                path.unlink(missing_ok=True)


def _is_agreed(what: str, dry_run: bool, yes: bool) -> bool:
    """Ask whether to remove something, where nobody has said so yet.

    Raises:
        UsageError: if there is nobody to ask.
    """
    if dry_run:
        click.echo(f"would remove {what}")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            f"nothing is removed without an answer, and there is no terminal to ask for {what}: give --yes"
        )
    return click.confirm(f"Remove {what}?", err=True)


def _is_run(where: str) -> bool:
    from raykd.store.remote import Remote, is_remote
    from raykd.store.run_directory import EXPERIMENT, RECIPE, RunDirectory

    if is_remote(where):
        return bool({EXPERIMENT, RECIPE} & Remote(where).entries("").keys())
    return RunDirectory(Path(where)).exists
