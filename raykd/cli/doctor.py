"""``raykd doctor``: what this machine has and lacks."""

from pathlib import Path

import click

from raykd.cli.command import Command
from raykd.config.data_root import data_folder


@click.command(cls=Command, example="raykd doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check versions, hardware, libraries, data and disk.

    The exit code is 3 if something needed is broken.
    """
    from raykd.cli import output
    from raykd.tasks.doctor import diagnose

    result = diagnose(data_folder(), Path("runs"))
    if as_json:
        output.print_json(result)
    else:
        output.print_pairs({check["name"]: check["value"] for check in result["checks"]})
        for check in result["checks"]:
            if check["advice"]:
                output.echo(f"{check['state']}: {check['name']}: {check['advice']}", err=True)
    if not result["ok"]:
        ctx.exit(3)
