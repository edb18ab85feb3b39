"""Numbers that are not finite: no step is made of them, nothing is saved after them, their origin is named."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.distributed.updater import Updater
from raykd.engine.finite import FiniteGuard, Unhealthy, check_finite, check_teacher, find_not_finite
from raykd.engine.run import run
from raykd.errors import RunFailed, UsageError
from raykd.methods import Method
from raykd.methods.lsgdfd import Lsgdfd
from raykd.methods.supervised import Supervised
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.checkpoint import find_fault, read_checkpoint, save_weights
from raykd.store.run_directory import RunDirectory
from raykd.tensors import read_tensors
from tests.engine.test_run import SHORT
from tests.golden.shrunk import shrunk
from tests.methods.toy import assert_same, made_batches, made_method, made_teacher


def guarded_steps(method: Method, steps: int) -> FiniteGuard:
    """Make steps as the engine does, without looking at the guard."""
    guard = FiniteGuard(method)
    for _ in range(steps):
        guard.note(method.step(made_batches(method, method.steps_done)))
    return guard


def spoil(updater: Updater, number: int) -> None:
    """Make one gradient of the step of that number NaN."""
    original = updater.step
    calls = iter(range(1000))

    def step(gradients: Any) -> None:
        if next(calls) == number:
            gradients = [torch.full_like(gradients[0], math.nan), *gradients[1:]]
        original(gradients)

    updater.step = step  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "updater", "number", "message"),
    [
        ("dafl", "generator", 2, "gradient of generator not finite at step 3"),
        ("dafl", "student", 0, "gradient of student not finite at step 1"),
        ("mosaickd", "student", 3, "gradient of student not finite at step 2"),  # two of its updates a step
        ("mosaickd", "discriminator", 4, "gradient of discriminator not finite at step 5"),
    ],
)
def test_a_bad_gradient_is_told_with_its_step_however_late_it_is_asked(
    name: str, updater: str, number: int, message: str
) -> None:
    method = made_method(name)
    spoil(method.updaters[updater], number)
    guard = guarded_steps(method, 5)
    with pytest.raises(Unhealthy, match=message):
        guard.check_updates()
    assert find_not_finite(method.trained[updater].state_dict()) == []


def test_a_bad_term_is_told_by_its_name_and_the_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    method = made_method("dafl")
    guard = guarded_steps(method, 2)
    before = {name: {k: v.clone() for k, v in method.trained[name].named_parameters()} for name in method.trained}
    monkeypatch.setattr("raykd.losses.information_entropy", lambda logits, mean: logits.sum() * math.inf)
    for _ in range(3):
        guard.note(method.step({}))
    monkeypatch.undo()
    with pytest.raises(Unhealthy, match=r"^loss/entropy not finite at step 3; .*Lower the learning rate"):
        guard.check({})
    assert_same(dict(method.trained["generator"].named_parameters()), before["generator"])


def test_good_steps_pass_and_what_was_infinite_from_the_beginning_may_be() -> None:
    method = made_method("dafl")
    method.student.register_buffer("mask", torch.full((2, 2), -math.inf))
    guard = guarded_steps(method, 3)
    guard.check({"loss/kd": 1.0})
    with pytest.raises(Unhealthy, match="parameters/x not finite at step 3"):
        guard.check({"parameters/x": math.inf})


@pytest.mark.parametrize("where", ["running_var", "exp_avg_sq"])
def test_buffers_and_the_optimizers_state_are_looked_at_before_they_are_saved(where: str) -> None:
    method = made_method("dafl")
    guard = guarded_steps(method, 1)
    if where == "running_var":
        method.student.get_buffer("body.1.running_var")[0] = math.inf
    else:
        method.updaters["generator"].state_dict()["optimizer"][0]["exp_avg_sq"].fill_(math.inf)
    with pytest.raises(Unhealthy, match=where):
        guard.check({})


@pytest.mark.parametrize("step", [2, 10], ids=["unfinished", "finished"])
def test_generators_of_a_bank_are_looked_at(step: int) -> None:
    method = made_method("lsgdfd")
    assert isinstance(method, Lsgdfd)
    guard = guarded_steps(method, step)
    guard.check({})
    assert method.members is not None
    next(method.members.bank.parameters()).data[1].view(-1)[0] = math.inf
    with pytest.raises(Unhealthy, match="0*1.*project"):
        guard.check({})


def test_a_bad_gradient_of_a_bank_is_told() -> None:
    method = made_method("lsgdfd")
    guard = guarded_steps(method, 1)
    spoil(method.updaters["generators"], 1)
    for _ in range(4):
        guard.note(method.step({}))
    with pytest.raises(Unhealthy, match="gradient of generators not finite at step 3"):
        guard.check_updates()


def test_figures_that_are_not_finite_are_named() -> None:
    check_finite({"a": 1.0}, 3)
    with pytest.raises(RunFailed, match="a, b not finite at step 3"):
        check_finite({"b": math.nan, "a": math.inf, "c": 1.0}, 3)


def test_a_teacher_that_is_not_finite_or_answers_so_is_refused() -> None:
    check_teacher(made_teacher())
    weights, statistics, scale, masked = (made_teacher() for _ in range(4))
    weights.network.get_parameter("head.bias").data[1] = math.nan
    with pytest.raises(UsageError, match=r"weights are not finite \(head.bias\)"):
        check_teacher(weights)
    statistics.network.get_buffer("body.1.running_var").fill_(math.nan)
    scale.network.get_parameter("head.weight").data.fill_(3e38)
    for teacher in (statistics, scale):
        with pytest.raises(UsageError, match="answers to random images are not finite"):
            check_teacher(teacher)
    masked.network.register_buffer("mask", torch.full((2, 2), -math.inf))
    check_teacher(masked)


def test_a_run_with_such_a_teacher_ends_before_its_first_step(tmp_path: Path) -> None:
    with shrunk(2, tmp_path) as (place, load):
        teacher = resolve(load("supervised_digits_lenet5"))
        run(teacher, place)
        file = place.workspace.run(teacher.run_id).student
        weights = dict(read_tensors(file, ""))
        next(iter(weights.values())).fill_(math.nan)
        (tmp_path / "data").mkdir(exist_ok=True)
        save_weights(weights, tmp_path / "data" / "broken.safetensors")
        pairs = ["teacher={model: lenet5, weights: broken.safetensors}", "controls=[]"]
        recipe = load_recipe("dafl_digits", [*pairs, "schedule.steps=2", "schedule.report_every=1"])
        with pytest.raises(UsageError, match="teacher's weights are not finite") as caught:
            run(resolve(recipe), place)
        assert "rate" not in str(caught.value)
        assert not place.workspace.run(resolve(recipe).run_id).exists


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


def test_a_bank_that_is_not_finite_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running statistics that the end of a wave refreshes come after the last gradient."""

    def refresh(bank: nn.Module, passes: int, draw: Callable[[int], Tensor], world: Any) -> None:
        for buffer in bank.buffers():
            buffer.fill_(math.inf)

    monkeypatch.setattr("raykd.methods.members.refresh_running_stats", refresh)
    with shrunk(2, tmp_path) as (place, load):
        experiment = resolve(load("lsgdfd_digits_bank"))
        with pytest.raises(Unhealthy, match=r"class_00000\..*running.* not finite at step 2"):
            run(experiment, place)
        directory = place.workspace.run(experiment.run_id)
    assert not directory.has_bank
    assert not directory.checkpoints.exists()
    assert directory.status()["state"] == "failed"
