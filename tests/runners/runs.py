"""A run small enough to be repeated, and a worker of it in a process of its own.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.runners.runs FOLDER STORE...
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raykd.cluster.config import Cluster
from raykd.models import build_model
from raykd.models.weights import load_weights
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.results import RunResult
from raykd.runners.train import train
from tests.architecture.imports import ROOT
from tests.ports import free_port

STEPS, REPORT_EVERY = 60, 5


def recipe(weights: Path, **changes: Any) -> Recipe:
    """Distil with a generator, and with batch normalisation: everything a checkpoint must hold."""
    return recipe_from_dict(
        {
            "name": "tiny",
            "data": "digits",
            "student": {"model": "lenet5_bn"},
            "teacher": {"model": "lenet5_half", "weights": str(weights)},
            "method": {
                "name": "dafl",
                "latent_dim": 8,
                "generator_width": 8,
                "generator_optim": {"name": "adam", "lr": 1e-3},
            },
            "student_optim": {"name": "adam", "lr": 1e-3},
            "schedule": {"steps": STEPS, "report_every": REPORT_EVERY, "global_batch": 32},
            **changes,
        }
    )


def save_teacher(path: Path) -> Path:
    """Write the weights of an untrained teacher."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = build_model("lenet5_half", num_classes=10, channels=1, size=32)
    save_file(network.state_dict(), path)
    load_weights(network, path)
    return path


def start(
    what: Recipe,
    store: Path,
    should_stop: Callable[[], bool] = lambda: False,
    **where: Any,
) -> RunResult:
    """Train on two workers, or as ``where`` says."""
    cluster = Cluster(name="test", **{"workers": 2, "max_failures": 1, **where})
    return train(resolve(what), cluster, store=store, data_root=None, should_stop=should_stop)


def start_without_ray(folder: Path, *stores: Path) -> None:
    """Train the run of the teacher in ``folder`` by two processes of torchrun's kind, in one store after another."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.runners.runs", str(folder), *map(str, stores)]
    workers = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [worker.wait(240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()


def reported(directory: Path) -> int:
    """Count the reports of a run so far."""
    path = directory / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def processes_below(ancestor: int, name: str) -> list[int]:
    """Return the ids of the descendants whose command line contains ``name``."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            names[int(entry.name)] = (entry / "cmdline").read_text()
        except OSError:  # it ended meanwhile
            continue
        parents[int(entry.name)] = int(fields[1])

    def is_below(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == ancestor:
                return True
        return False

    return sorted(process for process in names if name in names[process] and is_below(process))


def main(folder: Path, stores: list[Path]) -> None:
    """Train as one of the workers that the environment tells of, in one store after another."""
    for store in stores:
        start(recipe(folder / "teacher.safetensors"), store, workers=0, threads=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))
