"""All runs of a published table as parallel trials, and the table they make, which grows as they end."""

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.files import make_folder, write_text, writing
from raykd.recipe.experiment import Experiment
from raykd.recipe.table import Table, table_entries
from raykd.reporting.progress import following
from raykd.reporting.tables import markdown, table_report
from raykd.results import TableResult
from raykd.runners.batch import run_batch
from raykd.runners.outcome import RunOutcome
from raykd.runners.pages import keep_run_pages, keep_table_page
from raykd.store.mirror import TABLE
from raykd.store.remote import join
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Location, local_folder, open_workspace

logger = logging.getLogger(__name__)


def fill_table(
    table: Table,
    cluster: Cluster,
    *,
    quick: bool,
    seeds: int | None,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
    progress: bool,
) -> TableResult:
    """Run what is missing of a table, and write table.md and table.json into ``tables/`` of the store.

    Args:
        table: what is run.
        cluster: where.
        quick: at the reduced budget that the table states.
        seeds: of every row; None for what the table says.
        store: of the run directories.
        data_root: of the data sets.
        should_stop: asked several times a second whether to save and stop.
        progress: whether to tell on stderr how it goes.

    Raises:
        RaykdError: as ``raykd.runners.batch.run_batch``; a run that fails is told of in the table.
        SetupError: if the table cannot be written, once the runs at work have saved.
    """
    entries = table_entries(table, quick=quick, seeds=seeds)
    wanted = list({run.run_id: run for entry in entries for run in entry.runs}.values())
    runs = list({run.run_id: run for one in wanted for run in one.runs}.values())
    made, local = f"tables/{table.name}-quick" if quick else f"tables/{table.name}", local_folder(store)
    workspace = open_workspace(store, None, known=True)
    outcomes: dict[str, RunOutcome] = {}

    def report() -> TableResult:
        finished = {run: ended.result for run, ended in outcomes.items() if ended.result is not None}
        return table_report(
            table,
            entries,
            quick=quick,
            results=finished,
            reasons={run: ended.reason for run, ended in outcomes.items() if ended.reason is not None},
            hardware={run: _hardware(RunDirectory(local / run)) for run in finished},
            price_per_hour=cluster.price_per_hour,
        )

    def keep(table_so_far: TableResult) -> None:
        _write(local / made, table_so_far)
        workspace.push(made, World.alone())

    def ended(run: Experiment, how: RunOutcome) -> None:
        outcomes[run.run_id] = how
        keep(report())
        if how.reason is None:
            keep_run_pages([run.run_id], workspace)
            logger.info("%d of %d runs: %s finished", len(outcomes), len(runs), run.run_id)
        else:
            logger.warning("%d of %d runs: %s failed: %s", len(outcomes), len(runs), run.run_id, how.reason)

    with following(runs, str(store), elsewhere=cluster.address != "local") if progress else nullcontext():
        run_batch(wanted, cluster, store=store, data_root=data_root, should_stop=should_stop, on_outcome=ended)
    final = report()
    keep(final)
    keep_table_page(local / made)
    workspace.push(made, World.alone())
    return replace(final, directory=join(str(store), made))


def _hardware(run: RunDirectory) -> str:
    """Say what a run was trained on, from what it noted at its start."""
    noted = run.environment()
    try:
        device = noted["gpu"] or f"{noted['cpu']}, {noted['threads_per_worker']} of {noted['cores']} cores"
        return f"{noted['workers']} x {device}, {noted['precision']}"
    except KeyError:
        return "not noted"


def _write(folder: Path, report: TableResult) -> None:
    with writing(f"the table into {folder}"):
        make_folder(folder)
        write_text(folder / TABLE, json.dumps(report.to_dict(), indent=1))
        write_text(folder / "table.md", markdown(report))
