"""``raykd cluster``: check cluster files, and start and end what they name, by the tools made for that."""

import shlex

import click

from raykd.cli.command import Command
from raykd.cli.names import complete

_DRY = click.option("--dry-run", is_flag=True, help="Print the commands and do nothing.")


@click.group()
def cluster() -> None:
    """Check cluster files; start and end clusters."""


@cluster.command(cls=Command, example="raykd cluster validate ssh")
@click.argument("names", metavar="[NAME|FILE]...", nargs=-1, shell_complete=complete("cluster"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(names: tuple[str, ...], as_json: bool) -> None:
    """Check cluster files and the launcher files that they name; without a NAME, all that there are.

    Nothing is contacted. All are checked for a token, one version of Ray and room for the workers, pods also by
    Kubernetes' schemas, batch scripts by bash. Other keys are checked by those who know them: `ray up` itself,
    `kubectl apply --dry-run=server -f FILE`, `sbatch --test-only FILE`. Exit code 2 if anything is wrong.
    """
    from raykd.cli import output
    from raykd.cluster.config import cluster_names
    from raykd.cluster.validation import validate as problems_of
    from raykd.errors import SetupError, UsageError

    found: dict[str, list[str]] = {}
    code = 0
    for name in names or cluster_names():
        try:
            found[name] = problems_of(name)
            code = UsageError.exit_code if found[name] else code
        except SetupError as error:
            found[name] = [str(error)]
            code = code or error.exit_code
    if as_json:
        output.print_json({"problems": found})
    else:
        for name, problems in found.items():
            output.echo(f"{name}: {'ok' if not problems else ''}".rstrip())
            for problem in problems:
                output.echo(f"- {problem}")
    if code:
        raise click.exceptions.Exit(code)


@cluster.command(cls=Command, example="raykd cluster up ssh --dry-run")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete("cluster"))
@_DRY
def up(name: str, dry_run: bool) -> None:
    """Start the cluster of a cluster file: `ray up`, `kubectl apply` or `sbatch` with its launcher file."""
    from raykd.cluster.validation import validate as problems_of
    from raykd.errors import UsageError

    if problems := problems_of(name):
        raise UsageError("; ".join(problems))
    _do(name, "up", dry_run)


@cluster.command(cls=Command, example="raykd cluster down ssh --dry-run")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete("cluster"))
@_DRY
def down(name: str, dry_run: bool) -> None:
    """End the cluster of a cluster file, and with it whatever runs there."""
    _do(name, "down", dry_run)


@cluster.command(cls=Command, example="raykd cluster status ssh")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete("cluster"))
@_DRY
def status(name: str, dry_run: bool) -> None:
    """Ask what the cluster of a cluster file is doing."""
    _do(name, "status", dry_run)


def _do(name: str, verb: str, dry_run: bool) -> None:
    from raykd.cluster.launcher import perform, read_launcher

    launcher = read_launcher(name)
    if dry_run:
        for command in launcher.commands(verb):
            click.echo(shlex.join(command))
    else:
        perform(launcher, verb, lambda line: click.echo(line, err=True))
