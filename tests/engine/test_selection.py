"""Blind selection finds the better student without a look at the test figures; best is the oracle."""

import copy
import math

import pytest
import torch
from torch import Tensor

from raykd.engine.selection import Selection, _is_better
from raykd.methods import Method
from raykd.results import COVERAGE
from tests.methods.toy import Plain, assert_same, made_method, made_setting, made_teacher

Weights = dict[str, Tensor]


def candidate(distance: float) -> Weights:
    """The teacher's own weights, moved away from by so much."""
    generator = torch.Generator().manual_seed(0)
    weights = made_teacher().network.state_dict()
    return {
        name: value + distance * torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and "running_var" not in name
        else value.clone()
        for name, value in weights.items()
    }


def made_selection(method_name: str = "noise") -> Selection:
    teacher = made_teacher()
    method: Method = made_method(method_name, made_setting(teacher=teacher))
    method.student = Plain(8)  # as wide as the teacher, whose weights the candidates are near
    return Selection(method, teacher)


def considered(distances: list[float], test: list[float]) -> Selection:
    selection = made_selection()
    for step, (distance, top1) in enumerate(zip(distances, test, strict=True), start=1):
        selection.consider(candidate(distance), step, {"accuracy/top1": top1})
    return selection


@pytest.mark.parametrize("distances", [[0.5, 0.02, 0.3], [0.02, 0.5, 0.3], [0.5, 0.3, 0.02]])
def test_blind_picks_the_student_nearest_to_the_teacher(distances: list[float]) -> None:
    selection = considered(distances, [50.0, 50.0, 50.0])
    assert selection.steps["blind"] == 1 + distances.index(0.02)
    assert_same(selection.weights["blind"], candidate(0.02))
    assert selection.steps["last"] == 3
    assert_same(selection.weights["last"], candidate(distances[-1]))


def test_the_test_figures_move_best_and_nothing_else() -> None:
    distances = [0.5, 0.02, 0.3]
    first, second = considered(distances, [9.0, 1.0, 5.0]), considered(distances, [1.0, 2.0, 3.0])
    assert (first.steps["best"], second.steps["best"]) == (1, 3)
    assert_same(first.weights["best"], candidate(0.5))
    assert first.steps["blind"] == second.steps["blind"] == 2
    assert_same(first.state_dict()["pool"], second.state_dict()["pool"])


def test_blind_needs_no_test_figures() -> None:
    selection = made_selection()
    for step, distance in enumerate([0.5, 0.02, 0.3], start=1):
        selection.consider(candidate(distance), step, {})
    assert selection.steps == {"last": 3, "blind": 2, "best": 3}  # nothing to peek at


def test_best_keeps_the_first_of_equals() -> None:
    assert considered([0.5, 0.3], [7.0, 7.0]).steps["best"] == 1


def test_without_synthetic_images_blind_is_last() -> None:
    selection = made_selection("kd")
    for step in (1, 2):
        assert selection.consider(candidate(0.1 * step), step, {"accuracy/top1": 1.0}) == {}
    assert selection.steps == {"last": 2, "blind": 2, "best": 1}


def test_the_figures_are_those_of_the_blind_student() -> None:
    selection = made_selection()
    perfect = selection.consider(candidate(0.0), 1, {})
    assert 0 < perfect["blind/agreement"] <= perfect[COVERAGE], "what the noise does not show is disagreed on"
    missing = 1 - perfect["blind/agreement"] / 100
    assert perfect["blind/kl"] == pytest.approx(missing * math.log(4), abs=1e-3)
    selection.consider(candidate(0.0), 2, {})
    again = selection.consider(candidate(0.5), 3, {})
    assert selection.figures("blind") == {name: again[name] for name in ("blind/agreement", "blind/kl")}
    assert selection.figures("last")["blind/kl"] > again["blind/kl"]
    assert selection.steps["blind"] == 2


def test_kept_weights_are_copies() -> None:
    selection, weights = made_selection(), candidate(0.1)
    selection.consider(weights, 1, {"accuracy/top1": 1.0})
    before = copy.deepcopy(weights)
    for value in weights.values():
        value.zero_()
    for name in ("last", "blind", "best"):
        assert_same(selection.weights[name], before)


def test_the_pool_is_held_out() -> None:
    selection = made_selection()
    for step in range(1, 12):
        selection.consider(candidate(0.1), step, {})
    images = selection.state_dict()["pool"]["images"]
    world = selection._method.world
    trained = torch.cat([world.randn(8, 1, 8, 8, seed=0, step=step).half() for step in range(12)])
    assert not (images[:, None] == trained).flatten(2).all(2).any()


def test_a_referee_has_a_say_and_the_test_split_none() -> None:
    selection, figures = made_selection(), {"referee/agreement": 90.0, "referee/kl": 0.1, "accuracy/top1": 10.0}
    selection.consider(candidate(0.1), 1, figures)
    selection.consider(candidate(0.1), 2, {**figures, "accuracy/top1": 90.0})
    assert selection.steps["blind"] == 2, "of equals the later one"
    selection.consider(candidate(0.1), 3, {**figures, "referee/agreement": 20.0, "accuracy/top1": 99.0})
    assert selection.steps == {"last": 3, "blind": 2, "best": 3}
    other = made_selection()
    other.load_state_dict(copy.deepcopy(selection.state_dict()), selection.weights)
    other.consider(candidate(0.1), 4, {**figures, "referee/agreement": 89.0, "referee/kl": 0.2})
    assert other.steps["blind"] == 2, "what the referee said of it was saved"


def test_state_round_trips() -> None:
    selection = considered([0.5, 0.02], [3.0, 2.0])
    other = made_selection()
    other.load_state_dict(copy.deepcopy(selection.state_dict()), selection.weights)
    for one in (selection, other):
        one.consider(candidate(0.1), 3, {"accuracy/top1": 2.5})
    assert_same(other.state_dict(), selection.state_dict())
    assert_same(other.weights, selection.weights)
    assert other.steps == {"last": 3, "blind": 2, "best": 1}


@pytest.mark.parametrize(
    ("agreement", "kl", "kept"),
    [
        (99.0, 0.02, False),  # as good, and nearer
        (98.9, 0.02, False),  # within the error of 0.31: nearer counts
        (99.2, 0.04, True),  # within it, and farther
        (98.5, 0.01, True),  # worse beyond the error: nearness does not count
        (99.5, 0.09, False),
    ],
)
def test_agreements_within_their_error_are_told_apart_by_divergence(agreement: float, kl: float, kept: bool) -> None:
    incumbent = {"agreement": 99.0, "kl": 0.03}
    assert _is_better(incumbent, {"agreement": agreement, "kl": kl}, 1000) is kept
