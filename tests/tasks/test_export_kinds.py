"""Exports of runs of other kinds: without a teacher, and with a pool of images."""

import json
from pathlib import Path

import pytest
import yaml

import raykd
from tests.runners.runs import save_teacher

OPTIM = {"name": "adam", "lr": 1e-3}
BUDGET = {"steps": 4, "report_every": 2, "global_batch": 8}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYKD_DATA", raising=False)


def test_a_student_without_a_teacher_was_trained_and_not_distilled() -> None:
    recipe = {"data": "digits", "student": {"model": "lenet5_half"}, "method": {"name": "supervised"}}
    Path("alone.yaml").write_text(json.dumps({**recipe, "student_optim": OPTIM, "schedule": BUDGET}))
    raykd.export(raykd.train("alone.yaml", progress=False), "out", format="torch-export")
    card = Path("out/README.md").read_text()
    assert "A classifier of 10 classes, trained by raykd" in card and "distill" not in card
    head = yaml.safe_load(card.split("---")[1])
    assert (head["library_name"], head["tags"]) == ("pytorch", ["raykd"])


def test_a_pool_too_small_for_both_says_what_it_is_calibrated_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    method = {"latent_dim": 8, "generator_maps": [8, 8], "inner_steps": 1, "warmup_calls": 1, "student_steps": 2}
    method |= {"moment_weight": 0, "contrast_weight": 0, "balance_weight": 1}  # the teacher has no BatchNorm
    recipe = {
        "extends": "fast_digits",
        "data": {"name": "digits", "test": False},
        "teacher": {"model": "lenet5_half", "weights": str(save_teacher(tmp_path / "teacher.safetensors"))},
        "method": method,
        "schedule": {"steps": 6, "report_every": 2, "global_batch": 20},
        "controls": [],
    }
    Path("pool.yaml").write_text(json.dumps(recipe))
    made = raykd.export(raykd.train("pool.yaml", progress=False), "out", int8=True)
    assert made.compared_on == f"synthetic images of {made.run}"
    assert made.calibrated_on == f"{made.compared_on} ({made.images} of them compared on too), {made.images} images"
    assert f"is small: {made.images} images are calibrated and compared on" in caplog.text
