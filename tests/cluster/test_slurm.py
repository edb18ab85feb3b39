"""Batch scripts of Slurm: their options, and the sums that they work out."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raykd.cluster.launcher import read_launcher
from raykd.cluster.validation import validate
from tests.cluster.test_validation import ROOT, copied


def test_the_options_of_a_batch_script_are_read_in_every_spelling(tmp_path: Path) -> None:
    def shorter(_: dict[str, Any], script: str) -> str:
        for long, short in {
            "--job-name=": "-J ",
            "--nodes=": "-N",
            "--cpus-per-task=": "-c ",
            "--time=24:00:00": "-t 1-00 # a day",
            "--gpus-per-node=4": "--gres=gpu:a100:4,nvme:1",
            "#SBATCH --requeue": "#SBATCH --container-image=x",
        }.items():
            script = script.replace(long, short)
        return script

    broken = copied(tmp_path, "slurm", shorter)
    assert validate(broken) == []
    assert read_launcher(broken).name == "raykd"


@pytest.mark.parametrize("nodes", [1, 3, 64])
def test_the_batch_script_works_out_its_sums_for_any_number_of_nodes(nodes: int) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "RAYKD_DRY_RUN": "1",
        "SLURM_NNODES": str(nodes),
        "SLURM_JOB_ID": "123456",
        "RAYKD_CLUSTER": "/home/me/clusters/mine.yaml",
    }
    script = ROOT / "clusters/launchers/slurm.sh"
    command = ["bash", str(script), "train", "dafl_cifar10", "published={a b: 1}"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[0] == f"nodes {nodes}, GPUs {4 * nodes}, CPUs {32 * nodes}"
    assert told[1].startswith(f"srun --nodes={nodes} --ntasks={nodes} --cpus-per-task=32 ")
    assert f"--address HEAD:23456 --min-nodes {nodes} --num-cpus 32 --num-gpus 4 " in told[1]
    assert (
        r"-- python -m raykd train dafl_cifar10 published=\{a\ b:\ 1\} --cluster /home/me/clusters/mine.yaml" in told[1]
    )
