"""A command line inside the test process, and a recipe that runs in a second."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from raykd.cli.app import app
from raykd.models import build_model

Raykd = Callable[..., Result]
WriteRecipe = Callable[..., str]


@pytest.fixture(autouse=True)
def bare_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, no data root, and a process whose arithmetic stays as it is."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAYKD_DATA", "RAYKD_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("raykd.runners.local.prepare_host", lambda threads=None: None)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # each test writes its own
    torch.set_num_threads(1)


@pytest.fixture
def raykd() -> Raykd:
    """Run ``raykd`` with these arguments; stdout and stderr are kept apart."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), prog_name="raykd")

    return run


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Weights of an untrained LeNet-5 for ten classes."""
    torch.manual_seed(0)
    path = tmp_path / "teacher.safetensors"
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), path)
    return path


@pytest.fixture
def tiny(tmp_path: Path, teacher: Path) -> WriteRecipe:
    """Write a recipe of four small steps, with sections replaced by keyword."""

    def write(**sections: object) -> str:
        recipe = {
            "data": "digits",
            "teacher": {"model": "lenet5", "weights": teacher.name},
            "student": {"model": "lenet5_half"},
            "method": {"name": "noise"},
            "student_optim": {"name": "adam", "lr": 1e-3},
            "schedule": {"steps": 4, "report_every": 2, "global_batch": 8},
            "published": {"student": 12.5, "teacher": 98.9},
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**recipe, **sections}))
        return str(path)

    return write
