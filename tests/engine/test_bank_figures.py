"""Figures of a bank in training: known where the answer is known, and what a run says by them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.distributed.world import World
from raykd.engine.bank_figures import bank_figures, judge_images
from raykd.engine.evaluator import Evaluator
from raykd.engine.finite import Unhealthy
from raykd.engine.fit import fit
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import run
from raykd.engine.sentinel import Sentinel, find_warnings
from raykd.engine.stop import Interrupted
from raykd.methods.lsgdfd import Lsgdfd
from raykd.recipe.experiment import resolve
from raykd.recipe.sections import ScheduleConfig, SentinelConfig
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from tests.engine.test_quality import CLASSES, Bright, made
from tests.golden.shrunk import shrunk
from tests.methods.patterns import ADAM, lsgdfd, pattern_setting, teacher_of_patterns
from tests.methods.toy import SPEC, made_method

PLAIN = DataSpec("made", CLASSES, 1, 4, (0.0,), (1.0,), ("a", "b", "c", "d"))
STEPS = 30


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def judged(images: torch.Tensor, classes: torch.Tensor | None, parts: int = 1) -> dict[str, float]:
    size = len(images) // parts
    batches = [(i, None if classes is None else classes.split(size)[n]) for n, i in enumerate(images.split(size))]
    return judge_images(batches, Bright(), PLAIN, World.alone())


def test_the_class_that_the_teacher_does_not_see_is_named() -> None:
    wanted = torch.arange(CLASSES).repeat_interleave(8)
    shown = wanted.clone()
    shown[wanted == 2] = 1
    shown[8] = 3  # one image of class 1
    for parts in (1, 4):
        found = judged(made(shown, 0.5), wanted, parts)
        assert found["images/hit"] == 100 * 23 / 32
        assert (found["images/least_hit"], found["images/least_hit_class"], found["images/missed_classes"]) == (0, 2, 1)
        (text,) = find_warnings([found])
        assert text.startswith("starvation: the teacher takes 0 % of the images made for class 2 for it, so no student")


def test_the_class_of_one_picture_is_named_and_diversity_equals_the_slow_reference() -> None:
    labels = torch.arange(CLASSES).repeat_interleave(8)
    images = made(labels, 2.0)
    images[labels == 3] = images[24].clone()
    found = judged(images, labels)
    assert (found["images/least_diversity_class"], found["images/alike_classes"]) == (3, 1)
    assert found["images/least_diversity"] == pytest.approx(0, abs=1e-3)
    rows = images.flatten(1).double()
    away = torch.stack([row - rows[labels == label].mean(0) for row, label in zip(rows, labels, strict=True)])
    expected = 100 * (away.square().sum() / 28 / (rows.square().sum() / 32)).sqrt().item()
    assert found["images/pixel_diversity"] == pytest.approx(expected)
    assert found["images/outside"] == pytest.approx(100 * ((images < 0) | (images > 1)).double().mean().item())
    (text,) = find_warnings([found])
    assert text.startswith("sameness: the images made for class 3 are all alike (diversity 0.0 %), so a student")


def test_generators_that_are_given_no_class_are_judged_by_the_teachers_answers() -> None:
    found = judged(made(torch.zeros(80, dtype=torch.int64), 0.5), None)
    assert not {"images/hit", "images/least_hit", "images/progress"} & found.keys()
    assert found["images/classes"] == pytest.approx(1)
    assert found["images/class_spread"] == pytest.approx(0)
    assert [text.partition(":")[0] for text in find_warnings([found])] == ["collapse"]
    assert judged(made(torch.arange(80) % CLASSES, 0.5), None)["images/rarest"] == 100


def test_where_no_worker_has_images_there_are_no_figures() -> None:
    assert judge_images([], Bright(), PLAIN, World.alone()) == {}


def test_a_report_changes_nothing_of_the_training() -> None:
    ours, theirs = lsgdfd(), lsgdfd()
    for method in (ours, theirs):
        method.step({})
        if method is ours:
            before = torch.get_rng_state()
            assert bank_figures(method, method.context.networks["teacher"])
            assert torch.equal(torch.get_rng_state(), before)
        method.step({})
    for name, part in theirs.shard().items():
        assert torch.equal(ours.shard()[name], part), name


def test_methods_that_train_no_bank_are_judged_elsewhere() -> None:
    assert bank_figures(made_method("dafl"), teacher_of_patterns()) == {}


def trained(
    folder: Path, policy: str = "warn", *, stop_at: int | None = None, wave: int | None = None, **fields: Any
) -> RunDirectory:
    """Train a small bank in ``folder``, or go on with it."""
    directory = RunDirectory(folder)
    folder.mkdir(exist_ok=True)
    method = lsgdfd(pattern_setting(steps=STEPS, wave=wave), **{"tv_weight": 0.003, **fields})
    reporter = LocalReporter(directory, lambda: stop_at is not None and method.steps_done >= stop_at)
    sentinel = Sentinel(SentinelConfig.model_validate({"policy": policy}), directory.rows())
    fit(
        method,
        {},
        teacher_of_patterns(),
        Evaluator(None, SPEC, method.world, None),
        schedule=ScheduleConfig(steps=STEPS, report_every=10, global_batch=16),
        reporter=reporter,
        sentinel=sentinel,
        resume=reporter.resume_from(),
    )
    return directory


def warnings_of(directory: RunDirectory) -> list[str]:
    return list(directory.status()["warnings"])


def test_a_healthy_bank_is_not_warned_of(tmp_path: Path) -> None:
    directory = trained(tmp_path / "bank", "stop")
    assert warnings_of(directory) == []
    assert [round(row["images/progress"]) for row in directory.rows()] == [33, 67, 100]
    assert directory.rows()[-1]["images/least_hit"] > 90


def test_what_young_generators_do_not_know_yet_is_not_held_against_them() -> None:
    sentinel = Sentinel(SentinelConfig())
    figures = {"images/missed_classes": 2.0, "images/least_hit": 0.0, "images/least_hit_class": 3.0}
    told = []
    for step, missed in ((10, 2.0), (30, 2.0), (50, 2.0), (60, 0.0)):
        sentinel.look({"step": step, "images/progress": step, **figures, "images/missed_classes": missed})
        told.append(bool(sentinel.warnings))
    assert told == [False, False, True, False]


def test_a_bank_that_starves_is_warned_of_and_so_it_is_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained(tmp_path / "whole", class_weight=0)
    (text,) = warnings_of(whole)
    assert text.startswith("starvation: the teacher takes 0 % of the images made for class 2 for it, so no student")
    assert [record.message for record in caplog.records] == [f"step 20: {text}"]
    monkeypatch.setattr("raykd.engine.stop._SECONDS_BETWEEN", 0)
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", class_weight=0, stop_at=13)
    resumed = trained(tmp_path / "stopped", class_weight=0)
    assert warnings_of(resumed) == [text]
    kept = [{name: value for name, value in row.items() if name.startswith("images/")} for row in whole.rows()]
    assert [{name: row[name] for name in first} for row, first in zip(resumed.rows(), kept, strict=True)] == kept


@pytest.mark.parametrize("policy", ["stop", "rewind"])
def test_the_policies_end_a_bank_that_starves(tmp_path: Path, policy: str) -> None:
    with pytest.raises(Unhealthy, match=r"starvation: .* class 2 .*\(at step 20 and the report before it\)"):
        trained(tmp_path / "bank", policy, class_weight=0)


def test_what_a_wave_has_left_is_told_in_later_waves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One report says enough of generators that are finished; those of class 2 are in the second wave of two."""
    original = Lsgdfd.class_images

    def swapped(self: Lsgdfd, each: int, seed: int) -> Any:
        for images, classes in original(self, each, seed):
            assert classes is not None
            yield images, 1 - classes if self.milestone and 0 in classes else classes

    monkeypatch.setattr(Lsgdfd, "class_images", swapped)
    directory = trained(tmp_path / "bank", wave=2)
    missed = [row["images/missed_classes"] for row in directory.rows()]
    assert missed[:3] == [0, 0, 2]
    assert missed[4:] == [0, 0], "the second wave; its first report is of generators that have hardly begun"
    (text,) = warnings_of(directory)
    assert text.startswith("starvation: the teacher takes 0 % of the images made for class 0 for it, and hardly more")
    with pytest.raises(Unhealthy, match=r"starvation: .* class 0 .*\(at step 30, where these generators end\)"):
        trained(tmp_path / "stopping", "stop", wave=2)


def test_the_one_generator_of_all_classes_is_judged_too() -> None:
    for conditional in (True, False):
        context = pattern_setting(steps=STEPS, each=20)
        method = made_method("lsgdfd_single", context, conditional=conditional, generator_optim=ADAM)
        method.step({})
        found = bank_figures(method, context.networks["teacher"])
        assert {"images/classes", "images/outside", "images/pixel_diversity", "images/batch_norm_gap"} <= found.keys()
        assert ("images/least_hit" in found, "images/class_spread" in found) == (conditional, not conditional)


@pytest.mark.endurance
@pytest.mark.parametrize(
    ("changes", "kinds"), [([], []), (["method.class_weight=0", "method.statistics=global"], ["starvation"])]
)
def test_a_whole_run_of_a_bank_says_in_the_end_what_its_reports_say(
    tmp_path: Path, changes: list[str], kinds: list[str]
) -> None:
    sizes = ["schedule.global_batch=80", "method.generator.width=16", "schedule.report_every=20", *changes]
    teacher = "teacher.overrides={schedule.global_batch: 64, schedule.steps: 100, schedule.report_every: 100}"
    with shrunk(60, tmp_path) as (place, load):
        experiment = resolve(load("lsgdfd_digits_bank", [*sizes, teacher]))
        result = run(experiment, place)
        status = place.workspace.run(experiment.run_id).status()
    assert [text.partition(":")[0] for text in result.warnings or []] == kinds
    assert [text.partition(":")[0] for text in status["warnings"]] == kinds
    assert "least_hit" not in result.image_quality
