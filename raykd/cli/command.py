"""What all commands share: an example in the help, and errors as one line and an exit code."""

import logging
import os
import tempfile
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from raykd.cli.names import small_recipe
from raykd.cli.stop import Stop
from raykd.errors import RaykdError, SetupError, one_line
from raykd.files import make_folder, of_the_disk, write_text

# Of torch's errors, which are RuntimeErrors, those for want of memory, and for a size that no memory has.
_OF_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "not enough memory")
_ISSUES = "please report it with that file"
_SHOW = "set RAYKD_DEBUG=1 to see it, and please report it"


class Command(click.Command):
    """A click command with an ``example``, in which ``{recipe}`` is a small packaged recipe.

    ``interrupted`` is what has come of it where a signal ended it and nothing was saved.
    """

    def __init__(self, *args: Any, example: str, interrupted: str = "", **kwargs: Any) -> None:
        """Take both beside what click takes."""
        super().__init__(*args, **kwargs)
        self.example = example
        self.interrupted = interrupted

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example below the options."""
        with formatter.section("Example"):
            formatter.write_text(self.example.format(recipe=small_recipe()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; of an option that is meant for a field of a recipe, say how that is written."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if "." not in error.option_name:
                raise
            field = error.option_name.lstrip("-")
            raise click.UsageError(f"fields are written without dashes: {field}=VALUE", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what it raises into a message on stderr and an exit code."""
        start_logging()
        stop = ctx.ensure_object(Stop)
        stop.serve(self.interrupted)
        debug = bool(os.environ.get("RAYKD_DEBUG"))
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except SystemExit:
            if stop.signum is None:
                raise
            # Ray's own handler of SIGTERM, in place while Ray starts, exits with a code of its own.
            click.echo(f"raykd: {stop.message}", err=True)
            ctx.exit(stop.exit_code)
        except KeyboardInterrupt:
            click.echo(f"raykd: {stop.message}", err=True)
            ctx.exit(stop.exit_code)
        except (RaykdError, OSError, MemoryError, RuntimeError) as caught:
            error = _as_users(caught)
            if error is None:
                self._report_fault(ctx, stop, caught)
            if debug:
                traceback.print_exc()
            if stop.signum is not None:
                click.echo(f"raykd: {one_line(str(error))}", err=True)
                ctx.exit(stop.exit_code)
            click.echo(f"error: {one_line(str(error))}", err=True)
            ctx.exit(error.exit_code)
        except Exception as error:
            self._report_fault(ctx, stop, error)

    def _report_fault(self, ctx: click.Context, stop: Stop, error: BaseException) -> NoReturn:
        if stop.signum is None:  # what a signal broke off says nothing of the program
            path = _save_traceback(ctx.params.get("out"), error)
            kept = f"the traceback is in {path}, {_ISSUES}" if path else f"no disk takes the traceback: {_SHOW}"
            click.echo(
                f"error: {type(error).__name__}: {one_line(str(error))}\nThis is a fault of raykd; {kept}.", err=True
            )
            if os.environ.get("RAYKD_DEBUG"):
                traceback.print_exception(error)
        ctx.exit(1 if stop.signum is None else stop.exit_code)


allow_code_option = click.option(
    "--allow-code", is_flag=True, help="Let a factory run that the run names: code, of somebody whom you trust."
)


def _as_users(error: BaseException) -> RaykdError | None:
    """Return an error as one that a user can act on, of the disk or of memory; None if it is raykd's fault."""
    if isinstance(error, RaykdError):
        return error
    if refused := of_the_disk(error):
        return refused
    if isinstance(error, MemoryError) or any(words in str(error) for words in _OF_MEMORY):
        return SetupError(
            "there is not enough memory: lower schedule.global_batch, data.size or the networks' widths; `raykd plan` "
            "tells what a run needs"
        )
    return None


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at the moment: a progress display puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        click.echo(prefix + one_line(self.format(record)), err=True)


def start_logging() -> None:
    """Send the package's own log to stderr."""
    logger = logging.getLogger("raykd")
    logger.setLevel("DEBUG" if os.environ.get("RAYKD_DEBUG") else "INFO")
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())


def _save_traceback(out: str | Path | None, error: BaseException) -> Path | None:
    """Return the file that keeps the traceback, None where no disk takes one."""
    text = "".join(traceback.format_exception(error))
    name = f"raykd-error-{os.getpid()}.log"
    # `raykd report --out PAGE.html` names a file, in whose place no folder may come.
    is_store = bool(out) and "://" not in str(out) and not Path(str(out)).suffix
    for folder in ([Path(str(out))] if is_store else []) + [Path(tempfile.gettempdir())]:
        try:
            make_folder(folder)
            write_text(folder / name, text)
            return folder / name
        except (OSError, RaykdError):
            continue
    return None
