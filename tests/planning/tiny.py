"""A recipe that plans are made of, and where its trials run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from raykd.methods.cost import CostAxis, PlannedRun
from raykd.methods.noise import Noise
from raykd.planning.predict import TrialSite
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.store.workspace import Workspace

GIB = 2**30
SHORT = {"steps": 4, "report_every": 2}
Told = Mapping[str, Any]


def recipe(**sections: Any) -> Recipe:
    content = {
        "name": "tiny",
        "data": {"name": "digits", "test": False},
        "teacher": {"model": "lenet5", "weights": "teacher.safetensors"},
        "student": {"model": "lenet5_half"},
        "method": {"name": "noise"},
        "student_optim": {"name": "adam", "lr": 1e-3},
        "schedule": {"steps": 400, "report_every": 50, "global_batch": 512},
    }
    return recipe_from_dict({**content, **sections})


def site(tmp_path: Path, workers: int = 1) -> TrialSite:
    return TrialSite(Workspace(None, tmp_path), workers)


def tried(told: Told) -> dict[str, Any]:
    """The recipe that a trial is asked to try."""
    recipe: dict[str, Any] = told["experiment"]["runs"][told["experiment"]["run"]]["recipe"]
    return recipe


def shard_by_classes(monkeypatch: pytest.MonkeyPatch, axis: Callable[[PlannedRun], CostAxis]) -> None:
    monkeypatch.setattr(Noise, "sharded_by", "classes")
    monkeypatch.setattr(Noise, "cost_axis", lambda config, run: axis(run))
