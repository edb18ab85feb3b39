"""Plans of real generators and of students that learn from them, where neither teacher nor bank exists yet."""

from pathlib import Path

import pytest
import torch

from raykd.config.runtime import Runtime
from raykd.planning import predict as prediction
from raykd.planning import profile as trial
from raykd.planning.predict import TrialSite, predict
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.workspace import Workspace

SMALL = ["data.test=false", "schedule.global_batch=20"]
# Dense 8 -> 32 maps of 8 x 8 without bias; BatchNorm 32; convolutions 32-32, 32-16, 16-1 of 3 x 3 (the first two
# followed by BatchNorm 32 and 16, so without bias); the scale of the last BatchNorm.
MEMBER = 8 * 32 * 64 + 2 * 32 + 9 * 32 * 32 + 2 * 32 + 9 * 32 * 16 + 2 * 16 + 9 * 16 + 1 + 1


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "run_in_process", lambda task, told, site: trial.answer(task, told))
    monkeypatch.setattr(trial, "prepare_host", lambda threads: None)
    torch.set_num_threads(1)


def site(tmp_path: Path) -> TrialSite:
    return TrialSite(Workspace(None, tmp_path / "runs"), 2)


def test_a_wave_of_generators(tmp_path: Path) -> None:
    recipe = load_recipe("lsgdfd_digits_bank", [*SMALL, "method.generator.latent_dim=8"])
    found = predict(resolve(recipe), Runtime(wave=2), site(tmp_path), tmp_path / "a", memory=None)
    assert (found.axis.counts, found.axis.stages, sorted(found.trials)) == ("members", (2, 2, 2), [1, 2])
    assert found.built["member"]["parameters"] == MEMBER
    assert found.built["member"]["count"] == 10
    moments, counters = 2 * 2 * 4 * MEMBER, found.at("optimizer") - 2 * 2 * 4 * MEMBER
    assert found.at("optimizer") == moments + counters and 0 < counters < 100, "one counter for each tensor"
    assert sum(found.trials[2]["traffic"].values()) == 0, "members are their worker's own"
    assert found.at("checkpoint") > 2 * 3 * 2 * 4 * MEMBER, "both workers' members and their moments"
    assert len(found.placeholders) == 1


@pytest.mark.parametrize(("how", "members"), [("exchange", 5), ("copy", 10)])
def test_a_student_on_a_bank(tmp_path: Path, how: str, members: int) -> None:
    recipe = load_recipe("lsgdfd_digits", SMALL)
    runtime = Runtime.model_validate({"bank": how})
    found = predict(resolve(recipe), runtime, site(tmp_path), tmp_path / "a", memory=None)
    assert (found.built["bank"]["mode"], found.built["bank"]["members"]) == (how, members)
    traffic = found.trials[10]["traffic"]
    assert traffic["gradients"] == 4 * 15_738, "2 x 1/2 of the student's gradient"
    assert traffic.get("exchanged", 0) % (4 * 32 * 32) == 0
    assert (traffic.get("exchanged", 0) > 0) == (how == "exchange")
    assert len(found.placeholders) == 2, "of the teacher and of the bank"


def test_a_student_of_a_frozen_set(tmp_path: Path) -> None:
    sets = ["bank={recipe: dafl_digits, images: 100000}", "referee=[{recipe: dafl_digits, seed: 1, images: 50}]"]
    recipe = load_recipe("kd_digits", ["schedule.global_batch=16", *sets])
    found = predict(resolve(recipe), Runtime(), site(tmp_path), tmp_path / "a", memory=None)
    assert found.at("steps_peak") > 0
    assert [told.partition(" is not there: ")[2] for told in found.placeholders] == [
        "random weights stand in for its network",
        "64 random images stand in for it",
        "50 random images stand in for it",
    ]
    assert not (tmp_path / "synthetic").exists(), "a plan makes nothing where runs are"
