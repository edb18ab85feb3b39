"""Launcher files: what starts a cluster, and that there may be nothing to start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.cluster.launcher import perform, read_launcher
from raykd.errors import RunFailed, UsageError


@pytest.mark.parametrize("command", ["ray stop", "ray status"])
@pytest.mark.parametrize("name", ["aws", "gcp", "ssh"])
def test_ray_is_found_by_what_is_run_on_the_head(tmp_path: Path, name: str, command: str) -> None:
    """As Ray runs a command there: in a login shell, whose files know nothing of the environment before its setup."""
    ray = tmp_path / "venv/bin/ray"
    ray.parent.mkdir(parents=True)
    ray.write_text('#!/bin/sh\necho "did $1"\n')
    ray.chmod(0o755)

    def run(line: str) -> str:
        shell = ["bash", "--login", "-c", "-i", f"source ~/.bashrc; ({line})"]
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        return subprocess.run(shell, env=home, capture_output=True, text=True, check=True, timeout=60).stdout

    setup = [line for line in read_launcher(name).content["setup_commands"] if ".bashrc" in line]
    for line in setup * 2:
        run(line)
    assert run(command) == f"did {command.partition(' ')[2]}\n"
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1


def test_without_a_launcher_there_is_nothing_to_start() -> None:
    with pytest.raises(UsageError, match="names no 'launcher' file: Ray starts with each run there"):
        read_launcher("local")
    with pytest.raises(UsageError, match="it is to be running already"):
        read_launcher("gpu_cluster")


@pytest.mark.parametrize("failing", [True, False])
def test_a_traceback_of_a_tool_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], failing: bool
) -> None:
    """As Ray's are: ``raykd cluster status ssh`` before ``up`` was thirty lines of it."""
    ray = tmp_path / "ray"
    body = (
        "try:\n    {}['a']\nexcept KeyError as one:\n    raise RuntimeError('Head node (x) not found!') from one"
        if failing
        else "pass"
    )
    ray.write_text(f"#!{sys.executable}\nimport sys\nprint('out')\nprint('looking', file=sys.stderr)\n{body}\n")
    ray.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lines: list[str] = []
    launcher = read_launcher("ssh")
    if failing:
        with pytest.raises(RunFailed, match=r"`ray .*` ended with exit code 1: RuntimeError: Head node .* not found!$"):
            perform(launcher, "status", lines.append)
    else:
        perform(launcher, "status", lines.append)
    out, err = capfd.readouterr()
    assert (out, err) == ("out\n", "looking\n")
    assert lines[0].startswith("+ ray ")
