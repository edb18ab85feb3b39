"""What `make bench` runs, and what the scripts of data sets say without any; nothing is measured here."""

import os
import subprocess
import sys

import pytest

from tests.architecture.imports import ROOT

OF_DATA = {"mosaic_norm.py", "streaming.py"}


def said(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if name not in ("RAYKD_DATA", "MAKEFLAGS")}
    return subprocess.run(command, cwd=ROOT, env={**others, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("environment", [{}, {"RAYKD_DATA": "data"}])
def test_what_runs_needs_no_argument_and_has_its_data(environment: dict[str, str]) -> None:
    (loop,) = [line for line in said("make", "-n", "bench", **environment).stdout.splitlines() if "for script" in line]
    wanted = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"pruning.py"}
    listed = loop.partition(" in ")[2].partition(";")[0].split()
    assert {name.rpartition("/")[2] for name in listed} == wanted - (set() if environment else OF_DATA)


@pytest.mark.parametrize("script", sorted(OF_DATA))
def test_without_data_a_line_says_so(script: str) -> None:
    done = said(sys.executable, f"benchmarks/{script}")
    assert done.returncode == 1
    assert done.stderr.startswith("RAYKD_DATA is not set: it names the folder with ")
    assert done.stderr.count("\n") == 1
