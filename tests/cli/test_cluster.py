"""``raykd cluster``: the exact commands, shown and done; nothing is started that is wrong."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from raykd.cluster.config import cluster_file, load_cluster
from raykd.cluster.launcher import read_launcher
from raykd.config.yaml_file import load_yaml
from tests.cli.conftest import Raykd
from tests.cluster.test_validation import SHIPPED, copied


@pytest.mark.parametrize(("name", "verb", "commands"), [
    ("ssh", "up", ["ray up --yes {launcher}"]),
    ("ssh", "down", ["ray exec {launcher} 'ray stop'", "ray down --yes {launcher}"]),
    ("aws", "down", ["ray down --yes {launcher}"]),
    ("gcp", "status", ["ray exec {launcher} 'RAY_AUTH_MODE=token ray status'"]),
    ("kuberay", "up", ["kubectl apply -f {launcher}"]),
    ("kuberay_job", "up", [
        "kubectl delete configmap raykd-job --ignore-not-found",
        "kubectl create configmap raykd-job --from-file={file}",
        "kubectl apply -f {launcher}",
    ]),
    ("kuberay_job", "down", [
        "kubectl delete -f {launcher}", "kubectl delete configmap raykd-job --ignore-not-found",
    ]),
    ("slurm", "up", ["sbatch --export=ALL,RAYKD_CLUSTER={file} {launcher}"]),
    ("slurm", "status", ["squeue --me --name=raykd"]),
])  # fmt: skip
def test_a_dry_run_tells_the_exact_commands(raykd: Raykd, name: str, verb: str, commands: list[str]) -> None:
    places = {"launcher": read_launcher(name).path, "file": cluster_file(name)}
    told = raykd("cluster", verb, name, "--dry-run").stdout
    assert told.splitlines() == [command.format(**places) for command in commands]


def test_the_job_reads_the_cluster_file_that_was_asked_for(tmp_path: Path, raykd: Raykd) -> None:
    def named(_: Any, k8s: Any) -> None:
        k8s["metadata"]["namespace"] = "lab"
        k8s["spec"]["entrypoint"] = k8s["spec"]["entrypoint"].replace("kuberay_job.yaml", "mine.yaml")

    file = Path(copied(tmp_path, "kuberay_job", named))
    mine = file.rename(file.with_name("mine.yaml"))
    told = raykd("cluster", "up", str(mine), "--dry-run")
    assert f"kubectl create configmap raykd-job --from-file={mine} --namespace=lab\n" in told.stdout
    job = load_yaml(read_launcher(str(mine)).path)["spec"]
    words = job["entrypoint"].split()
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mount = next(mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "cluster")
    assert words[-2:] == ["--cluster", f"{mount['mountPath']}/mine.yaml"]
    assert {"name": "cluster", "configMap": {"name": "raykd-job"}} in pod["volumes"]
    # Where it is mounted, there is no launcher file beside it.
    shutil.copy(mine, tmp_path / "alone.yaml")
    assert load_cluster(str(tmp_path / "alone.yaml")).worker_range == (1, 4)


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


def test_a_providers_module_that_is_not_here_is_named(raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [place for place in sys.path if "-packages" not in place])
    monkeypatch.delitem(sys.modules, "boto3", raising=False)
    told = raykd("cluster", "status", "aws")
    assert told.exit_code == 3
    assert told.stderr == "error: Ray reaches 'aws' by boto3, which is not here: pip install boto3\n"


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


def test_a_file_that_is_no_text_is_named_and_does_not_end_the_check(tmp_path: Path, raykd: Raykd) -> None:
    broken = copied(tmp_path, "slurm", lambda raw, script: script)
    read_launcher(broken).path.write_bytes(b"#!/bin/bash\n\xff\n")
    told = raykd("cluster", "validate", broken, "local")
    assert told.exit_code == 2
    assert re.search(r"slurm.sh: cannot be read as text", told.stdout)
    assert told.stdout.endswith("local: ok\n")
    for verb in ("up", "down", "status"):
        told = raykd("cluster", verb, broken)
        assert told.exit_code == 2
        assert re.fullmatch(r"error: .*slurm.sh: cannot be read as text .*\n", told.stderr)


def test_a_check_that_cannot_be_made_does_not_end_the_others(raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes_validate", None)
    told = raykd("cluster", "validate", "kuberay", "local")
    assert told.exit_code == 3
    assert "pip install 'raykd[kubernetes]'" in told.stdout
    assert told.stdout.endswith("local: ok\n")
