"""A run in Weights & Biases, on this machine alone unless WANDB_MODE says otherwise."""

import atexit
import errno
import io
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from raykd.distributed.processes import end_below
from raykd.tracking.tracker import End, Report, RunFacts, result_figures, wandb_mode

logger = logging.getLogger(__name__)

_PROJECT = "raykd"
_TAG, _ID = 64, 128  # characters, at most
_FORBIDDEN = re.compile(r"[/\\#?%:]")
_EXIT_CODE = {"finished": 0, "failed": 1, "stopped": 130}
_ANSWER_SECONDS = 20.0
_EXIT_SECONDS = 10.0  # that a process waits in the end for what was not sent
_CORE, _KILL_SECONDS = "wandb-core", 2.0  # the package's own process, and what it is given to close its files


class WandbRun:
    """A run whose files lie in the run's directory, or in WANDB_DIR; `wandb sync` sends them."""

    def __init__(self, facts: RunFacts, known: str | None, noted: int) -> None:
        """Go on behind the step ``noted`` with the run of the id ``known``, or begin one."""
        # Read when it is imported.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")  # it prints addresses with the passwords in them
        import wandb

        self.id = known or _FORBIDDEN.sub("_", f"{facts.run_id[-(_ID - 9) :]}-{secrets.token_hex(4)}")
        self.step = noted  # offline the package does not know what it was told before
        mode, folder = wandb_mode(), os.environ.get("WANDB_DIR") or str(facts.folder)
        _require_folder(folder)
        logging.getLogger("wandb").setLevel(logging.CRITICAL)  # of a full disk its own log tells by tracebacks
        wandb.setup()
        # Behind the package's own, which it has registered by now and whose place it takes: the last comes first.
        atexit.unregister(_exit().wait)
        atexit.register(_exit().wait)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            dir=folder,
            id=self.id,
            name=facts.run_id,
            config={**facts.parameters, **facts.tags},
            tags=[tag[:_TAG] for tag in (facts.recipe, f"seed {facts.seed}")],
            mode=mode,  # type: ignore[arg-type]  # the user's
            resume=None if mode == "offline" else "allow",  # offline there is nobody to ask: the id says which it is
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                init_timeout=_ANSWER_SECONDS,
                save_code=False,
                silent=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )

    def log(self, reports: Sequence[Report]) -> None:
        """Log a report as one step, picture and all: a step that is over cannot be added to."""
        for report in reports:
            values: dict[str, Any] = {name: value for name, value in report.row.items() if name != "step"}
            if report.sheet is not None:
                values["samples"] = _picture(report.sheet)
            self._run.log(values, step=report.step)
            self.step = report.step

    def end(self, how: End, status: Mapping[str, Any], page: Path | None) -> None:
        """Log result and page, and close the run."""
        summary: dict[str, Any] = {**result_figures(status), "raykd/state": how}
        if reason := status.get("reason"):
            summary["raykd/reason"] = reason
        self._run.summary.update(summary)
        if page is not None:
            copy = shutil.copy(page, self._run.dir)  # its package would link to the file, and say so
            self._run.save(copy, base_path=self._run.dir, policy="now")
        self._run.finish(exit_code=_EXIT_CODE[how])


def _require_folder(folder: str) -> None:
    """Make a folder if need be; the package would take one for temporary files in its place, without a word.

    Raises:
        OSError: if it cannot be made or written.
    """
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK | os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


class _Exit:
    """Ends the package with the process, in bounded time: by itself it waits for a server that is away for ever."""

    def __init__(self) -> None:
        """Begin to wait for the end: an interpreter that ends may start no thread."""
        self._begun, self._done = threading.Event(), threading.Event()
        threading.Thread(target=self._tear_down, name="raykd-wandb-exit", daemon=True).start()

    def wait(self) -> None:
        """Let the package send what it has, for a while."""
        self._begun.set()
        if not self._done.wait(_EXIT_SECONDS):
            logger.warning(
                "tracker wandb: no answer within %.0f s; what was not sent lies in its folder: `wandb sync` sends it",
                _EXIT_SECONDS,
            )
            end_below(_CORE, _KILL_SECONDS)  # it would ask its server for ever, and nobody could tell why

    def _tear_down(self) -> None:
        self._begun.wait()
        with suppress(Exception, SystemExit):  # the process ends, whatever it says
            import wandb

            wandb.teardown()  # first of all it takes back its own wait, which knows no end
        self._done.set()


@cache
def _exit() -> _Exit:
    return _Exit()


def _picture(content: bytes) -> Any:
    import wandb
    from PIL import Image

    return wandb.Image(Image.open(io.BytesIO(content)))
