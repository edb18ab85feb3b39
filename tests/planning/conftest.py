"""Trials in this process, and trials by formula."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raykd.methods.noise import Noise
from raykd.models import build_model
from raykd.planning import predict as prediction
from raykd.planning import profile as trial
from raykd.planning.predict import TrialSite
from tests.planning.tiny import GIB, Told, tried


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trials in this process: everything but the peaks of memory means the same."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), "teacher.safetensors")
    monkeypatch.setattr(prediction, "run_in_process", lambda task, told, site: trial.answer(task, told))
    monkeypatch.setattr(trial, "prepare_host", lambda threads: None)
    torch.set_num_threads(1)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trials by formula: 0.1 s and 1 GiB, plus 0.01 s and 100 MiB for each member or image. Returns sizes tried."""
    asked: list[int] = []

    def answer(task: str, told: Told, site: TrialSite) -> dict[str, Any]:
        if task == "prepare":
            return {"experiment": told["experiment"], "placeholders": []}
        by_class = Noise.sharded_by == "classes"
        size = tried(told)["schedule"]["global_batch"] // site.workers
        if by_class:
            size = told["runtime"]["wave"] or 10
        if told["steps"]:
            asked.append(size)
        grown = 100 * 2**20 * size
        return {
            "device": "a machine",
            "on_gpu": False,
            "parameters": {"student": 50},
            "trained": {"student": 50},
            "classes": 40,
            "total_steps": tried(told)["schedule"]["steps"] * (-(-40 // (size * site.workers)) if by_class else 1),
            "built": GIB,
            "seconds": 0.1 + 0.01 * size,
            "cpu_seconds": 0.06 + 0.006 * size,
            "report_seconds": 0.5,
            "collectives": 2,
            "report_collectives": 7,
            "report_sent": 1000,
            "optimizer": 8 * 50,
            "steps_peak": GIB + grown,
            "report_peak": GIB + grown // 2,
            "checkpoint": 1000,
            "disk": 3000,
            "pool_disk": 0,
            "pool_memory": 0,
            "pool_added": 0,
            "traffic": {"gradients": 200, "exchanged": 4 * size},
            "test_missing": None,
        }

    monkeypatch.setattr(prediction, "run_in_process", answer)
    return asked
