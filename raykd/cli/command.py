"""What all commands share: an example in the help, and errors as one line and an exit code."""

import logging
import os
import tempfile
import traceback
from pathlib import Path
from typing import Any

import click

from raykd.cli.names import small_recipe
from raykd.cli.stop import Stop
from raykd.errors import RaykdError

_ISSUES = "please report it with that file"


class Command(click.Command):
    """A click command with an ``example``, in which ``{recipe}`` is a small packaged recipe."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        """Take the example beside what click takes."""
        super().__init__(*args, **kwargs)
        self._example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example below the options."""
        with formatter.section("Example"):
            formatter.write_text(self._example.format(recipe=small_recipe()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what it raises into a message on stderr and an exit code."""
        start_logging()
        stop = ctx.ensure_object(Stop)
        debug = bool(os.environ.get("RAYKD_DEBUG"))
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except SystemExit:
            if stop.signum is None:
                raise
            # Ray's own handler of SIGTERM, in place while Ray starts, exits with a code of its own.
            click.echo("raykd: interrupted", err=True)
            ctx.exit(stop.exit_code)
        except KeyboardInterrupt:
            click.echo("raykd: interrupted", err=True)
            ctx.exit(stop.exit_code)
        except RaykdError as error:
            if debug:
                traceback.print_exc()
            if stop.signum is not None:
                click.echo(f"raykd: {error}", err=True)
                ctx.exit(stop.exit_code)
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except Exception as error:
            if stop.signum is not None:  # what a signal broke off says nothing of the program
                ctx.exit(stop.exit_code)
            path = _save_traceback(ctx.params.get("out"))
            click.echo(
                f"error: {type(error).__name__}: {error}\n"
                f"This is a fault of raykd; the traceback is in {path}, {_ISSUES}.",
                err=True,
            )
            if debug:
                traceback.print_exc()
            ctx.exit(1)


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at the moment: a progress display puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        click.echo(prefix + self.format(record), err=True)


def start_logging() -> None:
    """Send the package's own log to stderr."""
    logger = logging.getLogger("raykd")
    logger.setLevel("DEBUG" if os.environ.get("RAYKD_DEBUG") else "INFO")
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())


def _save_traceback(out: str | Path | None) -> Path:
    name = f"raykd-error-{os.getpid()}.log"
    for folder in [Path(out)] if out and "://" not in str(out) else []:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(traceback.format_exc())
            return folder / name
        except OSError:
            continue
    path = Path(tempfile.gettempdir()) / name
    path.write_text(traceback.format_exc())
    return path
