"""Figures of reports that mean nothing are named, and end the run where its recipe says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raykd.engine.finite import Unhealthy
from raykd.engine.run import run
from raykd.engine.sentinel import (
    CLASS_SPREAD,
    DIVERSITY,
    LEAST_RANK,
    RAREST,
    RAREST_CLASS,
    WAITING_LEAST,
    WAITING_OTHERS,
    Sentinel,
    class_figures,
    class_spread,
    effective_classes,
    find_warnings,
)
from raykd.generators import Dcgan
from raykd.recipe.experiment import resolve
from raykd.recipe.sections import SentinelConfig
from tests.golden.shrunk import shrunk

WARN, STOP = SentinelConfig(), SentinelConfig(policy="stop")
SHORT = ["schedule.steps=8", "schedule.report_every=2", "controls=[]"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("labels", "spread"), [([3, 3, 3, 3], 0.0), ([0, 1, 2, 3], 100.0), ([0, 0, 1, 1], 100 / 3)])
def test_the_spread_of_classes_is_nought_for_one_and_a_hundred_for_all_alike(labels: list[int], spread: float) -> None:
    effective = effective_classes(torch.tensor(labels), 4)
    assert class_spread(effective, 4) == pytest.approx(spread, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ({CLASS_SPREAD: 3.0, "blind/agreement": 100.0}, ["collapse"]),
        ({CLASS_SPREAD: 60.0, "loss/kd": 3.0, "parameters/student": 50.0, RAREST: 40.0, DIVERSITY: 60.0}, []),
        ({CLASS_SPREAD: 90.0, RAREST: 1.0, RAREST_CLASS: 7.0}, []),
        ({CLASS_SPREAD: 90.0, DIVERSITY: 0.2}, ["sameness"]),
        ({"loss/kd": 1e9}, ["explosion"]),
        ({"parameters/generator": 1e7}, ["explosion"]),
        ({"loss/entropy": -2e7, CLASS_SPREAD: 0.0, RAREST: 0.0, RAREST_CLASS: 1.0}, ["collapse", "explosion"]),
        ({"accuracy/top1": 12.0}, []),
        ({WAITING_OTHERS: 70.0, WAITING_LEAST: 2.0, LEAST_RANK: 3.0}, ["straggler"]),
        ({WAITING_OTHERS: 70.0, WAITING_LEAST: 60.0, LEAST_RANK: 3.0}, []),  # the network is slow, for all alike
        ({WAITING_OTHERS: 20.0, WAITING_LEAST: 0.0, LEAST_RANK: 3.0}, []),
    ],
)
def test_figures_that_mean_nothing_are_named(row: dict[str, float], kinds: list[str]) -> None:
    assert [text.partition(":")[0] for text in find_warnings([row])] == kinds


@pytest.mark.parametrize(("shares", "named"), [([1.0, 0, 2, 4.9], True), ([0.0, 0, 0], False), ([0.0, 0, 0, 6], False)])
def test_a_class_that_does_not_come_is_named(shares: list[float], named: bool) -> None:
    texts = find_warnings([{CLASS_SPREAD: 90.0, RAREST: share, RAREST_CLASS: 7.0} for share in shares])
    assert [text.partition(" (")[0] for text in texts] == [
        "starvation: the teacher sees hardly any generated image as class 7"
    ] * named


@pytest.mark.parametrize(
    ("agreements", "named"),
    [
        ([10.0, 11, 10, 9, 10, 10, 11, 10], True),
        ([10.0, 10, 10, 9, 10, 10, 11], False),  # too few to tell
        ([10.0, 11, 12, 13, 14, 15, 16, 17], False),
        ([88.0] * 8, False),
        ([40.0, 40, 40, 40, 20, 20, 20, 20], True),
    ],
)
def test_a_plateau_far_from_good_is_named(agreements: list[float], named: bool) -> None:
    texts = find_warnings([{"step": step, "blind/agreement": value} for step, value in enumerate(agreements)])
    assert [text.partition(":")[0] for text in texts] == ["plateau"] * named


def test_the_rarest_class_is_named_where_there_are_images_enough() -> None:
    labels = torch.arange(80) % 4
    assert class_figures(labels, 4)[RAREST] == 100
    labels[labels == 2] = 3
    found = class_figures(labels, 4)
    assert (found[RAREST], found[RAREST_CLASS]) == (0, 2)
    assert RAREST not in class_figures(labels[:79], 4)
    assert class_figures(labels[:19], 4) == {}


def test_a_warning_is_logged_once_when_two_reports_agree(caplog: pytest.LogCaptureFixture) -> None:
    sentinel = Sentinel(WARN)
    for step, spread in enumerate((1.0, 90.0, 1.0, 1.0, 1.0)):
        sentinel.look({"step": step, CLASS_SPREAD: spread})
        assert bool(sentinel.warnings) == (spread < 50)
        assert len(caplog.records) == (step >= 3)
        assert sentinel.sound_step == (step >= 1)
    assert "step 3: collapse" in caplog.text
    assert sentinel.kept_step is None


def test_a_run_that_goes_on_is_judged_as_one_that_never_stopped() -> None:
    rows = [{"step": 2, CLASS_SPREAD: 90.0}, {"step": 4, CLASS_SPREAD: 1.0}]
    sentinel = Sentinel(STOP, rows)
    assert sentinel.sound_step == sentinel.kept_step == 2
    assert [text.partition(":")[0] for text in sentinel.warnings] == ["collapse"]
    with pytest.raises(Unhealthy, match="collapse: .*at step 6 and the report before it"):
        sentinel.look({"step": 6, CLASS_SPREAD: 1.0})


def test_after_a_rewind_a_plateau_takes_as_many_reports_again() -> None:
    rows = [{"step": step, "blind/agreement": 10.0} for step in range(1, 9)]
    assert Sentinel(WARN, rows).warnings
    assert not Sentinel(WARN, rows, since=1).warnings


def test_what_a_run_says_is_what_its_figures_say(tmp_path: Path) -> None:
    with shrunk(2, tmp_path) as (place, load):
        recipe = load("dafl_digits", ["schedule.steps=4", "schedule.report_every=2", "schedule.global_batch=128"])
        result = run(resolve(recipe), place)
        directory = place.workspace.run(resolve(recipe).run_id)
    spread = class_spread(result.image_quality["classes"], 10)
    kinds = {text.partition(":")[0] for text in result.warnings or []}
    rows = directory.rows()
    assert kinds == {text.partition(":")[0] for text in find_warnings([{CLASS_SPREAD: spread}]) + find_warnings(rows)}
    assert directory.status()["warnings"] == find_warnings(rows)
    for row in rows:
        assert 0 <= row[CLASS_SPREAD] <= 100
        assert {"images/outside", "images/confident", DIVERSITY, "parameters/student"} <= row.keys()


def test_a_generator_that_makes_one_picture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Dcgan.forward
    monkeypatch.setattr(Dcgan, "forward", lambda self, z: original(self, z)[:1].expand(len(z), -1, -1, -1))
    with shrunk(2, tmp_path) as (place, load):
        recipe = load("dafl_digits", [*SHORT, "schedule.steps=4", "schedule.global_batch=64"])
        result = run(resolve(recipe), place)
    kinds = {text.partition(":")[0] for text in result.warnings or []}
    assert {"collapse", "sameness"} <= kinds


@pytest.mark.endurance
def test_without_a_weight_on_balanced_classes_a_whole_run_is_warned_of(tmp_path: Path) -> None:
    pairs = ["method.generator_width=8", "schedule.global_batch=32", "method.entropy_weight=0", "schedule.steps=500"]
    with shrunk(200, tmp_path) as (place, load):
        recipe = load("dafl_digits", [*pairs, "schedule.report_every=50", "controls=[]"])
        result = run(resolve(recipe), place)
        status = place.workspace.run(resolve(recipe).run_id).status()
    assert any(text.startswith("collapse") for text in result.warnings or [])
    assert any(text.startswith("collapse") for text in status["warnings"])


@pytest.mark.parametrize(
    ("norms", "quality", "named"),
    [
        ([3.0] * 4, {"agreement": 11.0, "blind/agreement": 9.0}, True),
        ([3.0] * 4, {"accuracy/top1": 11.0}, True),
        ([3.0] * 3, {"agreement": 11.0}, False),
        ([3.0, 3.0, 3.0, 3.01], {"agreement": 11.0}, False),
        ([3.0] * 4, {"agreement": 97.0}, False),  # a rate that has come to its end
        ([3.0] * 4, {}, False),
    ],
)
def test_a_student_that_does_not_move_is_named(norms: list[float], quality: dict[str, float], named: bool) -> None:
    texts = find_warnings([{"step": step, "parameters/student": norm, **quality} for step, norm in enumerate(norms)])
    assert [text.partition(":")[0] for text in texts] == ["dead"] * named


def test_a_whole_run_of_hardly_a_rate_is_warned_of(tmp_path: Path) -> None:
    with shrunk(2, tmp_path) as (place, load):
        result = run(resolve(load("kd_digits", [*SHORT, "student_optim.lr=1e-12"])), place)
    assert any(text.startswith("dead: ") for text in result.warnings or [])


def test_what_stands_against_a_run_from_its_beginning_ends_none() -> None:
    sentinel = Sentinel(STOP, standing=["teacher: it knows nothing"])
    for step in (2, 4):
        sentinel.look({"step": step, CLASS_SPREAD: 90.0})
    assert sentinel.warnings == ["teacher: it knows nothing"]
    assert sentinel.sound_step == 4
