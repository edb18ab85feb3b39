"""Teachers by the names that others publish them by, from `raykd inspect` to the export of a student."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.cli.conftest import Raykd, WriteRecipe
from tests.models.test_timm_zoo import fill_cache
from tests.models.test_torchvision_zoo import NAME, publish
from tests.models.test_transformers_folder import save_vit

SMALL = ["schedule.steps=2", "schedule.report_every=1", "schedule.global_batch=20"]


def answer(raykd: Raykd, *arguments: str) -> dict[str, Any]:
    done = raykd(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_a_saved_transformer_teaches_and_its_run_can_move(
    raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_vit(Path("vit"), classes=10, size=32, patch=8)
    recipe = tiny(teacher={"model": "hf/vit"}, method={"name": "kd"})
    trained = answer(raykd, "train", recipe, "--out", "runs")
    run = next(path for path in Path("runs").iterdir() if path.name.startswith(Path(recipe).stem))
    assert json.loads((run / "data.json").read_text())["class_names"][0] == "0", "digits have names of their own"
    Path("moved").mkdir()
    shutil.move("runs", "moved/runs")
    shutil.rmtree("vit")
    moved = Path("moved") / run
    assert answer(raykd, "evaluate", str(moved))["teacher/accuracy/top1"] == trained["teacher/accuracy/top1"]
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "transformers.models.auto.modeling_auto", None)
    bare = answer(raykd, "evaluate", str(moved))
    assert "raykd[transformers]" in bare["teacher_missing"]


def test_a_transformer_is_looked_at_and_gets_a_recipe(raykd: Raykd) -> None:
    save_vit(Path("vit"), classes=3)
    found = answer(raykd, "inspect", "hf/vit")
    assert found["published"].endswith("3 classes (class 0, class 1, class 2)")
    assert any("BatchNorm" in text for text in found["methods"]["bank_kd"]["cons"]), "it has none"
    told = answer(raykd, "init", "--teacher", "hf/vit", *SMALL)
    trained = raykd("train", told["recipe"], "--out", "runs")
    assert trained.exit_code == 0, trained.stderr
    assert json.loads(next(Path("runs").glob("*/data.json")).read_text())["class_names"] == [
        "class 0", "class 1", "class 2",
    ]  # fmt: skip
    other = answer(raykd, "inspect", "hf/vit", "data.mean=[0.1]")
    assert any(note.startswith("data.mean is [0.1], and preprocessor_config.json") for note in other["notes"])


def test_a_folder_called_like_the_prefix_hides_no_teacher(raykd: Raykd) -> None:
    save_vit(Path("vit"), classes=3)
    save_vit(Path("hf/vit"), classes=4)
    save_vit(Path("hf/other"), classes=5)
    assert answer(raykd, "inspect", "hf/vit")["classes"] == 3, "as a recipe's teacher.model means it"
    assert answer(raykd, "inspect", "hf/hf/vit")["classes"] == 4
    missed = raykd("inspect", "hf/other")
    assert (missed.exit_code, "the folder hf/other here is 'hf/hf/other'" in missed.stderr) == (2, True), missed.stderr


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("teacher.weights=mine.pth", "which set were the weights of torchvision/resnet18 trained on?"),
        ("data=1", "data is a section, and got 1: set its fields by data.FIELD=VALUE"),
        ("teacher=[a]", "teacher is a section, and got ['a']"),
        ("data=nosuch", "nosuch"),
    ],
)
def test_what_is_no_section_and_whose_classes_nobody_tells_is_said_in_a_line(
    raykd: Raykd, override: str, says: str
) -> None:
    told = raykd("inspect", "torchvision/resnet18", override)
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1), told.stderr
    assert says in told.stderr


def test_networks_of_timm_teach_and_learn(raykd: Raykd, tiny: WriteRecipe) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict(), "mine.safetensors")
    recipe = tiny(
        data={"name": "digits", "size": 32},
        teacher={"model": "timm/test_resnet", "weights": "mine.safetensors"},
        student={"model": "timm/test_vit"},
        method={"name": "pool_inversion", "warmup_calls": 1, "student_steps": 1},
    )
    done = raykd("train", recipe, "--out", "runs", *SMALL)
    assert done.exit_code == 0, done.stderr
    assert "data.size is 32, and timm's pretrained_cfg of test_resnet says 160" in done.stderr
    run = next(path for path in Path("runs").iterdir() if path.name.startswith(Path(recipe).stem))
    assert answer(raykd, "evaluate", str(run))["finished"]
    exported = raykd("export", str(run), "--out", "exported", "--format", "safetensors")
    assert exported.exit_code == 0, exported.stderr
    assert any("from timm import create_model" in path.read_text() for path in Path("exported").rglob("*.py"))


def test_published_weights_of_timm_are_looked_at(raykd: Raykd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_cache(monkeypatch, tmp_path / "cache")
    found = answer(raykd, "inspect", "timm/test_resnet", "data.size=32")
    assert (found["source"], found["mean"], found["classes"]) == ("timm/test_resnet.r160_in1k", [0.5, 0.5, 0.5], 1000)


def test_published_weights_of_torchvision_are_looked_at(
    raykd: Raykd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(monkeypatch, tmp_path / "home")
    found = answer(raykd, "inspect", f"torchvision/{NAME}", "data.size=32")
    assert "1,000 classes (tench, goldfish, great white shark, ...)" in found["published"]
    assert found["mean"] == [0.485, 0.456, 0.406]
    path.write_bytes(path.read_bytes() + b"!")
    damaged = raykd("inspect", f"torchvision/{NAME}")
    assert (damaged.exit_code, "is damaged: its name tells a sha256" in damaged.stderr) == (4, True)
    path.unlink()
    assert raykd("inspect", f"torchvision/{NAME}").exit_code == 2


def test_a_missing_package_is_the_surroundings_fault(raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    done = raykd("inspect", "timm/test_resnet")
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert "pip install 'raykd[timm]' there" in done.stderr
