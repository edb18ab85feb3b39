"""A run whose numbers are not finite fails, and leaves what it saved before; figures that mean nothing are named."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.engine.run import run
from raykd.engine.sentinel import (
    CLASS_SPREAD,
    LEAST_RANK,
    WAITING_LEAST,
    WAITING_OTHERS,
    Watch,
    class_spread,
    effective_classes,
    find_warnings,
)
from raykd.errors import RunFailed
from raykd.recipe.experiment import resolve
from raykd.store.checkpoint import find_fault, read_checkpoint
from raykd.store.run_directory import RunDirectory
from tests.engine.test_run import SHORT
from tests.golden.shrunk import shrunk


@pytest.mark.parametrize("every", [1, 2, 4])
def test_an_absurd_rate_fails_and_saves_nothing_that_is_not_finite(tmp_path: Path, every: int) -> None:
    pairs = ["schedule.steps=4", f"schedule.report_every={every}", "student_optim.lr=1e30"]
    with shrunk(2, tmp_path) as (place, load):
        recipe = load("supervised_digits_lenet5", pairs)
        with pytest.raises(RunFailed, match=r"not finite at step .*Lower the learning rate") as caught:
            run(resolve(recipe), place)
    directory = place.workspace.store / resolve(recipe).run_id
    assert caught.value.exit_code == 1
    status = RunDirectory(directory).status()
    assert status["state"] == "failed"
    assert status["reason"] == str(caught.value)
    for path in (directory / "checkpoints").glob("*"):
        weights = read_checkpoint(path).weights["last"]
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_the_checkpoint_before_a_failure_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raykd.methods.supervised import Supervised

    original = Supervised.step

    def poisoned(self: Supervised, batches: Any) -> Any:
        metrics = original(self, batches)
        return {name: value * torch.nan for name, value in metrics.items()} if self.steps_done == 3 else metrics

    with shrunk(2, tmp_path) as (place, load):
        recipe = load("supervised_digits_lenet5", SHORT)
        monkeypatch.setattr(Supervised, "step", poisoned)
        with pytest.raises(RunFailed, match="loss/cross_entropy not finite at step 3"):
            run(resolve(recipe), place)
        checkpoints = place.workspace.store / resolve(recipe).run_id / "checkpoints"
        assert [p.name for p in sorted(checkpoints.iterdir())] == ["step_0000001", "step_0000002"]
        assert [find_fault(path) for path in checkpoints.iterdir()] == [None, None]
        monkeypatch.undo()
    with shrunk(2, tmp_path) as (place, load):
        assert run(resolve(load("supervised_digits_lenet5", SHORT)), place).student.step == 4


@pytest.mark.parametrize(("labels", "spread"), [([3, 3, 3, 3], 0.0), ([0, 1, 2, 3], 100.0), ([0, 0, 1, 1], 100 / 3)])
def test_the_spread_of_classes_is_nought_for_one_and_a_hundred_for_all_alike(labels: list[int], spread: float) -> None:
    effective = effective_classes(torch.tensor(labels), 4)
    assert class_spread(effective, 4) == pytest.approx(spread, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ({CLASS_SPREAD: 3.0, "blind/agreement": 100.0}, ["collapse"]),
        ({CLASS_SPREAD: 60.0, "loss/kd": 3.0}, []),
        ({"loss/kd": 1e9}, ["explosion"]),
        ({"loss/entropy": -2e7, CLASS_SPREAD: 0.0}, ["collapse", "explosion"]),
        ({"accuracy/top1": 12.0}, []),
        ({WAITING_OTHERS: 70.0, WAITING_LEAST: 2.0, LEAST_RANK: 3.0}, ["straggler"]),
        ({WAITING_OTHERS: 70.0, WAITING_LEAST: 60.0, LEAST_RANK: 3.0}, []),  # the network is slow, for all alike
        ({WAITING_OTHERS: 20.0, WAITING_LEAST: 0.0, LEAST_RANK: 3.0}, []),
    ],
)
def test_figures_that_mean_nothing_are_named(row: dict[str, float], kinds: list[str]) -> None:
    assert [text.partition(":")[0] for text in find_warnings(row)] == kinds


def test_a_warning_is_logged_once_when_two_reports_agree(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    for step, spread in enumerate((1.0, 90.0, 1.0, 1.0, 1.0)):
        watch.look({"step": step, CLASS_SPREAD: spread})
        assert bool(watch.warnings) == (spread < 50)
        assert len(caplog.records) == (step >= 3)
    assert "step 3: collapse" in caplog.text


def test_what_a_run_says_is_what_its_figures_say(tmp_path: Path) -> None:
    with shrunk(2, tmp_path) as (place, load):
        recipe = load("dafl_digits", ["schedule.steps=4", "schedule.report_every=2", "schedule.global_batch=64"])
        result = run(resolve(recipe), place)
        directory = place.workspace.run(resolve(recipe).run_id)
    spread = class_spread(result.image_quality["classes"], 10)
    assert result.warnings == (find_warnings({CLASS_SPREAD: spread}) or None)
    assert directory.status()["warnings"] == find_warnings(directory.rows()[-1])
    assert all(0 <= row[CLASS_SPREAD] <= 100 for row in directory.rows())
