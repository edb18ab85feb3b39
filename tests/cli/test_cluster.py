"""``raykd cluster``: the exact commands, shown and done; nothing is started that is wrong."""

import json
import os
from pathlib import Path

import pytest

from raykd.cluster.config import load_cluster
from raykd.cluster.launcher import read_launcher
from tests.cli.conftest import Raykd
from tests.cluster.test_validation import SHIPPED, copied


@pytest.mark.parametrize(("name", "verb", "command"), [
    ("ssh", "up", "ray up --yes {}"),
    ("aws", "down", "ray down --yes {}"),
    ("gcp", "status", "ray exec {} 'RAY_AUTH_MODE=token ray status'"),
    ("kuberay", "up", "kubectl apply -f {}"),
    ("kuberay_job", "down", "kubectl delete -f {}"),
    ("slurm", "up", "sbatch {}"),
    ("slurm", "status", "squeue --me --name=raykd"),
])  # fmt: skip
def test_a_dry_run_tells_the_exact_command(raykd: Raykd, name: str, verb: str, command: str) -> None:
    file = read_launcher(load_cluster(name)).path
    assert raykd("cluster", verb, name, "--dry-run").stdout == command.format(file) + "\n"


def test_the_command_is_done_and_shown(
    tmp_path: Path, raykd: Raykd, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tool = tmp_path / "bin/sbatch"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "submitted $1"; exit "${CODE:-0}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    done = raykd("cluster", "up", "slurm")
    assert done.exit_code == 0
    assert capfd.readouterr().out.startswith("submitted ")
    assert "+ sbatch " in done.stderr
    monkeypatch.setenv("CODE", "3")
    failed = raykd("cluster", "up", "slurm")
    assert failed.exit_code == 1
    assert "ended with exit code 3" in failed.stderr


def test_a_tool_that_is_not_here_is_named(raykd: Raykd) -> None:
    told = raykd("cluster", "status", "slurm")
    assert told.exit_code == 3
    assert "'squeue' is not on the PATH: run this on a login node" in told.stderr


def test_what_is_wrong_is_not_started(tmp_path: Path, raykd: Raykd) -> None:
    broken = copied(tmp_path, "slurm", lambda raw, _: raw.update(workers=[1, 99]))
    told = raykd("cluster", "up", broken, "--dry-run")
    assert told.exit_code == 2
    assert "there is room for 16 workers" in told.stderr


def test_validate_reads_all_there_are_and_its_exit_code_tells(tmp_path: Path, raykd: Raykd) -> None:
    whole = raykd("cluster", "validate")
    assert whole.exit_code == 0
    assert [line.partition(":")[0] for line in whole.stdout.splitlines()] == SHIPPED
    broken = copied(tmp_path, "ssh", lambda raw, _: raw.update(worker=3))
    told = raykd("cluster", "validate", broken, "local", "--json")
    assert told.exit_code == 2
    problems = json.loads(told.stdout)["problems"]
    assert (len(problems[broken]), problems["local"]) == (1, [])
