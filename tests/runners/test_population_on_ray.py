"""Population-based training on Ray: members go on from each other's checkpoints, and a recipe alone repeats it."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from optuna.trial import TrialState

from raykd.cluster.config import Cluster
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.runners.train import train
from raykd.search.attributes import RUN
from raykd.search.setup import SearchStopped
from tests.runners.test_tune import RATE, searched, study_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

POPULATION: dict[str, Any] = {
    "trials": 2,
    "scheduler": {"name": "pbt", "quantile": 0.5},
    "space": {**RATE, "method.temperature": {"loguniform": [1, 20]}},
}


def assert_population(report: dict[str, Any], folder: Path) -> None:
    """Two members, three generations, and the best is what its recipe alone would have become."""
    assert report["trials"] == {"target": 6, "complete": 6, "pruned": 0, "failed": 0, "running": 0}, report["reasons"]
    done = [trial for trial in study_of(report).trials if trial.state == TrialState.COMPLETE]
    assert sorted(trial.user_attrs["generation"] for trial in done) == [0, 0, 1, 1, 2, 2]
    assert all(list(trial.intermediate_values) == [trial.user_attrs["generation"] + 1] for trial in done)
    heirs = [trial for trial in done if trial.user_attrs["changes"] and trial.user_attrs["generation"] == 2]
    assert heirs, "somebody went on from a better one"
    heir = folder / "runs" / heirs[0].user_attrs[RUN]
    recipe = load_recipe(str(heir / "recipe.yaml"))
    assert [change.model_dump() for change in recipe.changes] == heirs[0].user_attrs["changes"]
    alone = train(
        resolve(recipe),
        Cluster(name="here", workers=0, threads=1),
        store=folder / "alone",
        data_root=None,
        should_stop=bool,
    )
    assert alone.student.more["holdout/accuracy/top1"] == heirs[0].values[0]
    assert (folder / "alone" / resolve(recipe).run_id / "student.safetensors").read_bytes() == (
        heir / "student.safetensors"
    ).read_bytes()
    best = load_recipe(str(Path(report["directory"]) / "best.yaml"))
    assert [change.model_dump() for change in best.changes] == report["best"][0]["changes"]


def test_a_population_goes_on_from_its_best(ray_session: ModuleType, tmp_path: Path) -> None:
    report = searched(tmp_path, **POPULATION)
    assert_population(report, tmp_path)
    assert searched(tmp_path, **POPULATION)["best"] == report["best"]


@pytest.mark.endurance
def test_a_population_of_two_workers_each_is_stopped_and_goes_on(ray_session: ModuleType, tmp_path: Path) -> None:
    def second_generation() -> bool:
        return bool(list((tmp_path / "runs").glob("kd_digits-*/checkpoints/step_0000008")))

    where = {"workers": 2, "cpus_per_worker": 1}
    with pytest.raises(SearchStopped):
        searched(tmp_path, second_generation, where, **POPULATION)
    report = searched(tmp_path, where=where, **POPULATION)
    assert report["trials"] == {"target": 6, "complete": 6, "pruned": 0, "failed": 0, "running": 0}, report["reasons"]
