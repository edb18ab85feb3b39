"""A run is judged by what it holds: from any folder, wherever it was moved, whatever became of the files it named."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.runners.train import train
from raykd.store.run_directory import RunDirectory
from raykd.tasks.evaluate import evaluate_run

SMALL = ["schedule.steps=4", "schedule.report_every=2", "schedule.global_batch=16", "controls=[]"]
SMALL_TEACHER = "extends: supervised_digits_lenet5\nschedule: {steps: 12, report_every: 6, global_batch: 32}\n"


def trained(folder: Path, teacher: str) -> RunDirectory:
    """Train a student in ``folder``, which its recipe's names are relative to."""
    run = resolve(load_recipe("kd_digits", [*SMALL, f"teacher={teacher}"]))
    here = Cluster(name="here", workers=0, threads=1)
    train(run, here, store=folder / "runs", data_root=None, should_stop=bool, tune_host=False)
    return RunDirectory(folder / "runs" / run.run_id)


def figures(run: RunDirectory) -> dict[str, Any]:
    found = evaluate_run(run, None, World.alone()).to_dict()
    return {key: found.get(key) for key in ("accuracy/top1", "agreement", "kl", "teacher_missing")}


def test_a_teacher_that_is_a_recipe_of_the_users_is_the_one_of_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_teacher.yaml").write_text(SMALL_TEACHER)
    run = trained(tmp_path, "{recipe: ./my_teacher.yaml}")
    first = figures(run)
    assert first["agreement"] is not None
    assert first["teacher_missing"] is None
    Path("my_teacher.yaml").write_text(SMALL_TEACHER.replace("steps: 12", "steps: 18"))
    assert figures(run) == first, "after an edit of the teacher's recipe"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert figures(run) == first, "from another folder"
    moved = (tmp_path / "runs").rename(tmp_path / "kept")
    (tmp_path / "my_teacher.yaml").unlink()
    monkeypatch.chdir("/")
    assert figures(RunDirectory(moved / run.path.name)) == first, "after a move of the store"


def test_a_run_moves_alone_with_its_teachers_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_teacher.yaml").write_text(SMALL_TEACHER)
    run = trained(tmp_path, "{recipe: ./my_teacher.yaml}")
    first = figures(run)
    teacher = run.experiment().teacher
    assert teacher is not None
    alone = tmp_path / "alone"
    shutil.copytree(run.path, alone / run.path.name)
    assert "train it, or put its run beside this one" in figures(RunDirectory(alone / run.path.name))["teacher_missing"]
    (alone / teacher.run_id).mkdir()
    shutil.copy(tmp_path / "runs" / teacher.run_id / "student.safetensors", alone / teacher.run_id)
    assert figures(RunDirectory(alone / run.path.name)) == first


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A teacher of the user's own, in a file."""
    torch.manual_seed(0)
    path = tmp_path / "teacher.safetensors"
    save_file(build_model("lenet5_half", num_classes=10, channels=1, size=32).state_dict(), path)
    return path


def test_a_teachers_weights_that_are_gone_are_those_that_the_store_keeps(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = trained(tmp_path, "{model: lenet5_half, weights: teacher.safetensors}")
    first = figures(run)
    assert first["agreement"] is not None
    monkeypatch.chdir("/")
    assert figures(run) == first, "relative to another folder"
    monkeypatch.chdir(tmp_path)
    other = build_model("lenet5_half", num_classes=10, channels=1, size=32)
    save_file(other.state_dict(), weights)
    assert figures(run) == first, "the file holds others by now"
    shutil.rmtree(tmp_path / "runs" / "weights")
    assert "not those that run" in figures(run)["teacher_missing"]


def test_a_changed_student_is_refused(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raykd.errors import CorruptError

    monkeypatch.chdir(tmp_path)
    run = trained(tmp_path, "{model: lenet5_half, weights: teacher.safetensors}")
    content = bytearray(run.student.read_bytes())
    content[-1] ^= 1
    run.student.write_bytes(content)
    with pytest.raises(CorruptError, match=r"student\.safetensors is damaged \(it differs from its checksum\)"):
        figures(run)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(CorruptError, match="differs from its checksum"):
        figures(run)
