"""Launcher files: what starts a cluster, and that there may be nothing to start."""

import subprocess
from pathlib import Path

import pytest

from raykd.cluster.launcher import read_launcher
from raykd.errors import UsageError


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
