"""A run whose numbers are not finite fails, and leaves what it saved before."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.engine.run import run
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
