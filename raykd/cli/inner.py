"""The command inside ``raykd submit -- ...``, read as it will be read on the cluster."""

from pathlib import Path

import click

from raykd.cluster.submission import JobRequest
from raykd.errors import UsageError, unknown

COMMANDS = ("train", "tune", "table")


def parse_inner_command(app: click.Group, words: tuple[str, ...], working_dir: Path) -> JobRequest:
    """Parse a command of ``app`` that is to run on the cluster.

    Raises:
        UsageError: if it is none that can be submitted, or names what is not in the working directory.
    """
    from raykd.cluster.submission import parse_request

    name, *arguments = words
    if name not in COMMANDS:
        raise unknown("command to submit", name, COMMANDS)
    command = app.commands[name]
    values = command.make_context(f"raykd submit -- {name}", list(arguments)).params
    for option in ("cluster", "out"):
        if values.get(option) is not None:
            other = "submit has its own" if option == "cluster" else "runs land in the cluster's storage"
            raise UsageError(f"leave out --{option} of {name}: {other}")
    return parse_request(name, tuple(arguments), values, working_dir)
