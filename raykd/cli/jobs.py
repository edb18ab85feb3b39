"""``raykd jobs``: what was submitted to a cluster."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from raykd.cli.command import Command
from raykd.cli.names import cluster_option
from raykd.cli.stop import Stop

if TYPE_CHECKING:
    from raykd.cluster.jobs import Jobs, SubmittedJob

_CLUSTER = cluster_option(help="Which cluster's jobs; default: those of this machine.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def jobs() -> None:
    """List, show, follow and stop what was submitted, by the ids of runs."""


@jobs.command("list", cls=Command, example="raykd jobs list --cluster gpu_cluster")
@_CLUSTER
@_JSON
def list_(cluster: str | None, as_json: bool) -> None:
    """List the jobs of a cluster, the oldest first."""
    from raykd.cli import output

    api = _api(cluster)
    found = [(job, api.step(job)) for job in api.all()]
    if as_json:
        output.print_json({"jobs": [_job_to_dict(job, step) for job, step in found]})
        return
    rows = [[job.run, job.command, job.status, step or "", job.started or "", job.ended or ""] for job, step in found]
    output.print_table("jobs", ["run", "command", "status", "step", "started", "ended"], rows, numbers=False)


@jobs.command(cls=Command, example="raykd jobs status {recipe} --cluster gpu_cluster")
@click.argument("run")
@_CLUSTER
@_JSON
def status(run: str, cluster: str | None, as_json: bool) -> None:
    """Tell how the last job of RUN (an id, or how one begins) is."""
    from raykd.cli import output

    api = _api(cluster)
    job = api.find(run)
    told = _job_to_dict(job, api.step(job))
    if as_json:
        output.print_json(told)
    else:
        output.print_pairs({name: value for name, value in told.items() if value not in (None, "")})


@jobs.command(cls=Command, example="raykd jobs logs -f {recipe} --cluster gpu_cluster")
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends; the exit code is the job's.")
@_CLUSTER
@click.pass_obj
def logs(stop: Stop, run: str, follow: bool, cluster: str | None) -> None:
    """Print what the last job of RUN has said."""
    api = _api(cluster)
    job = api.find(run)
    say: Callable[[str], Any] = lambda text: click.echo(text, nl=False)  # noqa: E731
    if not follow:
        say(api.logs(job))
        return
    with stop.tidying():
        code = api.follow(job, say)
    if code:
        raise click.exceptions.Exit(code)


@jobs.command("stop", cls=Command, example="raykd jobs stop {recipe} --cluster gpu_cluster")
@click.argument("run")
@_CLUSTER
def stop_(run: str, cluster: str | None) -> None:
    """Ask the last job of RUN to save and stop; submitted again, it goes on."""
    api = _api(cluster)
    job = api.find(run)
    if job.is_over:
        click.echo(f"{job.id} is over: {job.status}")
    else:
        click.echo(f"{job.id}: {api.stop(job).status}")


def _api(cluster: str | None) -> "Jobs":
    from raykd.cluster.submission import connect, load_job_cluster

    return connect(load_job_cluster(cluster))


def _job_to_dict(job: "SubmittedJob", step: str | None) -> dict[str, Any]:
    return {
        "run": job.run,
        "job": job.id,
        "status": job.status,
        "step": step,
        "arguments": job.command.partition(" ")[2],
        "exit code": job.exit_code,
        "started": job.started,
        "ended": job.ended,
        **{name: value for name, value in job.metadata.items() if name not in ("run", "runs")},
        "message": job.message,
    }
