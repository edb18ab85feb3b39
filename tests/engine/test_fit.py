"""A training step by step: numbers that change on the way, runs left at a step, and runs that begin with another's."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.stop import Interrupted
from raykd.errors import SetupError
from raykd.files import MANIFEST, sha256_of, write_json
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe
from raykd.recipe.sections import Change
from raykd.store.fork import fork
from raykd.store.run_directory import RunDirectory
from tests.engine.test_run import assert_same_run, rows
from tests.golden.shrunk import shrunk

SHORT = ["schedule.steps=8", "schedule.report_every=2", "controls=[]"]
CHANGES = (
    Change(at=2, values={"method.temperature": 1.5, "student_optim.lr": 0.001}),
    Change(at=6, values={"method.entropy_weight": 9.0, "method.generator_optim.lr": 0.01}),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def directory(recipe: Recipe, place: RunContext) -> Path:
    return place.workspace.store / resolve(recipe).run_id


def trained(root: Path, recipe_changes: tuple[Change, ...], until: int | None = None) -> Path:
    with shrunk(8, root) as (place, load):
        recipe = load("dafl_digits", SHORT).model_copy(update={"changes": recipe_changes})
        place = replace(place, until=until)
        if until is None:
            run(resolve(recipe), place)
        else:
            with pytest.raises(Interrupted, match=f"stopped at step {until} of 8"):
                run(resolve(recipe), place)
        return directory(recipe, place)


def make_unfit(checkpoint: Path) -> None:
    """Give a checkpoint a state of another run, for which its manifest vouches."""
    torch.save({"method": {"steps_done": 4}}, checkpoint / "state.pt")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    size = (checkpoint / "state.pt").stat().st_size
    manifest["files"]["state.pt"] = {"sha256": sha256_of(checkpoint / "state.pt"), "bytes": size}
    write_json(checkpoint / MANIFEST, manifest)


def figures(of: Path) -> list[dict[str, Any]]:
    """What the method tells at each report, without what is only measured."""
    return [{k: v for k, v in row.items() if k == "step" or k.startswith("loss/")} for row in rows(of)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("plain"), ())


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("changed"), CHANGES)


def test_a_number_changes_at_its_step_and_not_before(plain: Path, changed: Path) -> None:
    before, after = figures(plain), figures(changed)
    assert after[0] == before[0], "up to step 2 both are one training"
    # The student's rate and the temperature leave the generator alone, whose weight changes at step 6.
    assert [row["loss/kd"] for row in after[1:]] != [row["loss/kd"] for row in before[1:]]
    assert [row["loss/entropy"] for row in after[:3]] == [row["loss/entropy"] for row in before[:3]]
    assert after[3]["loss/entropy"] != before[3]["loss/entropy"]
    assert [row["step"] for row in after] == [2, 4, 6, 8]


def test_changes_to_what_is_there_already_change_nothing(tmp_path: Path, plain: Path) -> None:
    """Cutting a training into stretches is not seen in its weights: optimizers, noise and selection go on."""
    same = (Change(at=2, values={"method.onehot_weight": 1.0}), Change(at=4, values={"method.onehot_weight": 1.0}))
    ours = trained(tmp_path, same)
    assert rows(ours) == rows(plain)
    assert (ours / "student.safetensors").read_bytes() == (plain / "student.safetensors").read_bytes()


@pytest.mark.parametrize("until", [2, 4, 6])
def test_a_run_is_left_at_a_step_and_continued(tmp_path: Path, until: int, changed: Path) -> None:
    ours = trained(tmp_path, CHANGES, until)
    assert RunDirectory(ours).status()["state"] == "interrupted"
    assert RunDirectory(ours).status()["step"] == until
    assert rows(ours) == [row for row in rows(changed) if row["step"] <= until]
    assert trained(tmp_path, CHANGES, until) == ours, "again: nothing is left to do"
    assert_same_run(trained(tmp_path, CHANGES), changed)


def test_a_stop_at_every_step_of_every_stretch_loses_nothing(tmp_path: Path, changed: Path) -> None:
    with shrunk(8, tmp_path) as (place, load):
        recipe = load("dafl_digits", SHORT).model_copy(update={"changes": CHANGES})
        assert recipe.teacher is not None
        run(resolve(load(str(recipe.teacher.recipe))), place)
        stopping = replace(place, make_reporter=lambda at: LocalReporter(at, lambda: True))
        for step in range(1, 8):
            with pytest.raises(Interrupted, match=f"stopped at step {step} of 8"):
                run(resolve(recipe), stopping)
        run(resolve(recipe), place)
        ours = directory(recipe, place)
    assert_same_run(ours, changed)
    assert rows(ours) == rows(changed)


def test_a_stretch_does_not_find_again_what_was_unfit(
    tmp_path: Path, changed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest two are of another run, and the one before them is back from a backup."""
    ours = trained(tmp_path, CHANGES, until=2)
    backup = shutil.copytree(ours / "checkpoints/step_0000002", tmp_path / "backup")
    with shrunk(8, tmp_path) as (place, load):
        recipe = load("dafl_digits", SHORT).model_copy(update={"changes": CHANGES})
        run(resolve(recipe), place)
    for path in sorted((ours / "checkpoints").iterdir()):
        make_unfit(path)
    for name in ("status.json", "student.safetensors"):
        (ours / name).unlink()
    backup.rename(ours / "checkpoints/step_0000002")
    assert_same_run(trained(tmp_path, CHANGES), changed)
    assert sum("using the one before it" in line for line in caplog.messages) == 2, "each is told of once"


@pytest.mark.parametrize("links", [True, False])
def test_who_inherits_ends_as_who_trained_it_all(tmp_path: Path, changed: Path, links: bool) -> None:
    """The donor has been changed once, the heir once more: the heir's recipe alone leads to the same weights."""
    donor = trained(tmp_path, CHANGES[:1], until=6)
    heir = donor.parent / changed.name
    with mock.patch("os.link", side_effect=None if links else OSError, wraps=os.link):
        assert fork(RunDirectory(heir), RunDirectory(donor), 6)
    assert [row["step"] for row in rows(heir)] == [2, 4, 6]
    assert (heir / "checkpoints/step_0000006/state.pt").stat().st_nlink == (2 if links else 1)
    ours = trained(tmp_path, CHANGES)
    assert ours == heir
    assert_same_run(ours, changed)
    assert rows(ours) == rows(changed)
    assert [row["step"] for row in rows(donor)] == [2, 4, 6], "the donor's own files are not written to"


def test_what_the_donor_did_later_is_not_inherited(tmp_path: Path, plain: Path) -> None:
    heir = tmp_path / "heir"
    assert fork(RunDirectory(heir), RunDirectory(plain), 6)
    assert [row["step"] for row in rows(heir)] == [2, 4, 6]
    assert [row["step"] for row in rows(plain)] == [2, 4, 6, 8]


def test_a_disk_that_takes_no_heir_is_named(tmp_path: Path, plain: Path) -> None:
    (tmp_path / "heir").symlink_to("/proc")
    with pytest.raises(SetupError, match="could not write into run directory .*/heir .*the same command"):
        fork(RunDirectory(tmp_path / "heir"), RunDirectory(plain), 6)


def test_a_damaged_heir_is_left_to_its_own_run(tmp_path: Path, plain: Path) -> None:
    torn = tmp_path / "heir/checkpoints/step_0000002"
    torn.mkdir(parents=True)
    assert fork(RunDirectory(tmp_path / "heir"), RunDirectory(plain), 6)
    assert [path.name for path in torn.parent.iterdir()] == [torn.name]


def test_a_result_tells_of_the_whole(changed: Path) -> None:
    result = json.loads((changed / "status.json").read_text())["result"]
    assert result["images"] == 8 * 16
    assert result["last"]["step"] == 8


@pytest.mark.parametrize("name", ["dafl_digits", "kd_digits", "lsgdfd_single_digits_bank"])
def test_a_run_says_where_its_time_went_over_all_its_parts(name: str, tmp_path: Path) -> None:
    with shrunk(8, tmp_path) as (place, load):
        experiment = resolve(load(name, SHORT))
        with pytest.raises(Interrupted):
            run(experiment, replace(place, until=4))
        directory = RunDirectory(place.workspace.store / experiment.run_id)
        before = directory.status()["phases"]
        result = run(experiment, place)
        assert run(experiment, place).phases == result.phases, "of a finished run it is read"
    phases = result.phases or {}
    assert all(phases[phase] >= seconds for phase, seconds in before.items())
    assert phases["start"] > before["start"], "each part starts"
    assert sum(phases.values()) >= (result.seconds or 0) - 0.01 * len(phases)
    method = experiment.recipe.method.name
    assert ("student" in phases) == (method != "lsgdfd_single")
    assert ("synthesis" in phases) == (method != "kd")
    assert directory.status()["phases"] == phases
