"""Who waits at a terminal for libraries is told so; nobody else is."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.imports import ROOT

PROGRAM = """
import sys
from raykd.cli.loading import tell_of_loading
tell_of_loading(0.3)
if sys.argv[1] == "import":
    import slow
else:
    exec(open("slow.py").read())
print("done")
"""


@pytest.fixture(autouse=True)
def slow_module() -> None:
    Path("slow.py").write_text("import time\ntime.sleep(2)\n")


def run(how: str, *, stderr: int) -> str:
    """Return what the program says on stdout; -c has it find ``slow`` here."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, how]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True).stdout


@pytest.mark.parametrize(("how", "told"), [("import", True), ("work", False)])
def test_a_terminal_shows_that_libraries_are_being_loaded_and_for_other_work_nothing(how: str, told: bool) -> None:
    ours, theirs = pty.openpty()
    os.write(theirs, b"begun\n")  # so that there is something to read
    assert run(how, stderr=theirs) == "done\n", "stdout is for figures"
    shown = os.read(ours, 10_000).decode()
    assert shown.count("raykd: loading libraries") == told
    os.close(ours)
    os.close(theirs)


def test_a_pipe_is_told_nothing() -> None:
    with open("said", "w+b") as said:
        run("import", stderr=said.fileno())
        said.seek(0)
        assert said.read() == b""
