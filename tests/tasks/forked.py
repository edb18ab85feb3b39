"""``raykd doctor --chaos`` whose every start of the command is forked from this process, and so costs no imports.

python -m tests.tasks.forked ARGUMENTS OF RAYKD DOCTOR [kinds=KIND,...]
"""

import importlib
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from raykd.cli import main
from raykd.distributed.host import prepare_host
from raykd.tasks import chaos


class Forked:
    """The command in a process that was forked from this one, in a session of its own."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        reading, writing = os.pipe()
        self._code: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            os.setsid()
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            run_command(arguments)
        os.close(writing)
        threading.Thread(target=self._keep, args=(reading, log), daemon=True).start()

    def _keep(self, reading: int, log: Path) -> None:
        with open(reading, "rb", buffering=0) as said, log.open("wb", buffering=0) as file:
            shutil.copyfileobj(said, file, 1)

    @property
    def pid(self) -> int:
        return self._pid

    def poll(self) -> int | None:
        if self._code is None:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code


def run_command(arguments: Sequence[str]) -> None:
    """Be ``raykd`` in this process, and end it."""
    code = 1
    try:
        sys.argv = ["raykd", *arguments]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    prepare_host(1)
    # The first optimizer imports the second; the others are imported where they are needed.
    for module in ("sklearn.datasets", "torch._dynamo", "torch.utils.tensorboard", "raykd.api", "raykd.engine.run"):
        with suppress(ImportError):
            importlib.import_module(module)
    words = [word for word in sys.argv[1:] if not word.startswith("kinds=")]
    kinds: Any = [kind for word in sys.argv[1:] if word not in words for kind in word[6:].split(",")]
    chaos.certify = partial(chaos.certify, launch=Forked, kinds=kinds or None)
    sys.argv = ["raykd", "doctor", *words]
    main()
