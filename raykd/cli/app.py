"""The ``raykd`` group: which commands there are."""

import click

import raykd
from raykd.cli.cluster import cluster
from raykd.cli.data import data
from raykd.cli.distill import distill
from raykd.cli.doctor import doctor
from raykd.cli.evaluate import evaluate
from raykd.cli.export import export
from raykd.cli.init import init
from raykd.cli.inspect import inspect
from raykd.cli.jobs import jobs
from raykd.cli.list import list_
from raykd.cli.ood import ood
from raykd.cli.plan import plan
from raykd.cli.report import report
from raykd.cli.runs import runs
from raykd.cli.show import config, show
from raykd.cli.statistics import statistics
from raykd.cli.submit import submit
from raykd.cli.synthesize import synthesize
from raykd.cli.table import table
from raykd.cli.train import train
from raykd.cli.tune import tune


@click.group(
    epilog="Exit codes: 0 done, 1 the run failed, 2 usage, 3 environment, "
    "4 damaged data or checkpoint, 130/143 stopped by a signal. "
    "Data sets are looked for in $RAYKD_DATA."
)
@click.version_option(raykd.__version__, prog_name="raykd", message="%(prog)s %(version)s")
def app() -> None:
    """Train a small network to stand in for a large one, with or without the large one's data."""


_RUNS = (distill, train, tune, table, plan, evaluate, report, export, runs)
_NETWORKS = (init, inspect, statistics, ood, synthesize)
_PLACES = (cluster, submit, jobs, list_, show, config, doctor, data)
for command in (*_RUNS, *_NETWORKS, *_PLACES):
    app.add_command(command)
