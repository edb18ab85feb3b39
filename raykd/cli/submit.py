"""``raykd submit``: a command of raykd as a job on a running cluster."""

import tempfile
from pathlib import Path
from typing import Any

import click

from raykd.cli.command import Command
from raykd.cli.names import cluster_option, complete_inner
from raykd.cli.stop import Stop
from raykd.config.data_root import data_place


@click.command(
    cls=Command,
    example="raykd submit --cluster gpu_cluster -- train {recipe}",
    context_settings={"ignore_unknown_options": True},
)
@cluster_option(help="A cluster that is running; default: the Ray of this machine.")
@click.option("--no-wait", is_flag=True, help="Come back once the job is submitted.")
@click.option("--dry-run", is_flag=True, help="Print what would be submitted, and what it would take; do nothing.")
@click.option(
    "--working-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("."),
    help="What the job takes along; default: this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.argument(
    "words",
    metavar="-- train|tune|table ...",
    nargs=-1,
    type=click.UNPROCESSED,
    required=True,
    shell_complete=complete_inner,
)
@click.pass_obj
def submit(
    stop: Stop,
    cluster: str | None,
    no_wait: bool,
    dry_run: bool,
    working_dir: Path,
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Run a command of raykd on a cluster, and show what it says until it ends.

    The working directory goes along, without what .git, .gitignore and .rayignore leave out, and so does raykd
    itself. The run lands in the cluster's storage. Submitted again, a run that is at work is joined, and one that
    was stopped goes on; a command with other options that would train a run at work is refused. Ctrl-C leaves the
    job running. The exit code is the job's.
    """
    from raykd.cli import output
    from raykd.cli.inner import parse_inner_command
    from raykd.cluster.package import collect
    from raykd.cluster.submission import Submission, connect, load_job_cluster
    from raykd.store.workspace import local_folder

    target = load_job_cluster(cluster)
    app = click.get_current_context().find_root().command
    assert isinstance(app, click.Group), "raykd has commands"
    request = parse_inner_command(app, words, working_dir)
    root = data_place()
    package = collect(working_dir, local_folder(root) if root else None)
    submission = Submission.create(request, package, target)
    package.check()
    if dry_run:
        _print_plans(submission, as_json)
        return
    with tempfile.TemporaryDirectory(prefix="raykd-job-") as folder, stop.tidying():
        jobs = connect(target)
        job, new = submission.send(jobs, Path(folder))
    click.echo(f"job {job.id} {'submitted' if new else 'is at work already: joining it'}", err=True)
    told: dict[str, Any] = {"job": job.id, "run": job.run, "new": new}
    code = 0
    if not no_wait:
        try:
            with stop.tidying():
                code = jobs.follow(job, lambda text: click.echo(text, nl=False, err=as_json))
        except KeyboardInterrupt:
            there = f" --cluster {cluster}" if cluster else ""
            again = f"`raykd jobs logs -f {job.run}{there}` shows it, `raykd jobs stop` ends it"
            click.echo(f"\nraykd: job {job.id} goes on; {again}", err=True)
            raise
        told["status"] = jobs.find(job.id).status
    if as_json:
        output.print_json(told)
    if code:
        raise click.exceptions.Exit(code)


def _print_plans(submission: Any, as_json: bool) -> None:
    from raykd.cli import output
    from raykd.cli.plan import durations, print_plan

    summary = submission.summary()
    plans = submission.plan()
    if as_json:
        output.print_json({**summary, **plans.to_dict()})
        return
    output.print_pairs({name: value for name, value in summary.items() if not isinstance(value, dict)})
    if plans.plan is not None:
        print_plan(plans.plan)
    if plans.in_all is not None:
        figures = ", ".join(durations(plans.in_all))
        click.echo(f"{plans.in_all['runs']} such runs to their ends, and once what they share: {figures}")
    if plans.note is not None:
        click.echo(f"note: {plans.note}")
