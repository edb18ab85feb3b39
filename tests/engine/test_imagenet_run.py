"""From files of ImageNet's shape to a student: converted, streamed in random parts, taught by a larger teacher."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from raykd.config.runtime import Runtime
from raykd.data import parquet
from raykd.data.convert import convert
from raykd.data.imagenet_labels import all_wnids
from raykd.distributed.world import World
from raykd.engine.build import build_spec, load_teacher
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.errors import UsageError
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.store.workspace import Workspace
from raykd.tasks.evaluate import evaluate_run
from tests import made_imagenet

LABELS = [3, 40, 500, 999]


def network(classes: int) -> nn.Module:
    return build_model("cifar_resnet8", num_classes=classes, channels=3, size=32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a set of four classes, and a teacher of all 1000."""
    root = tmp_path_factory.mktemp("imagenet")
    for label in LABELS:
        made_imagenet.write(root / "source", "folders", range(label, label + 1), 8, 40)
    (root / "four.txt").write_text("\n".join(all_wnids()[label] for label in LABELS))
    convert("imagenet", root / "source", root, class_list=root / "four.txt")
    torch.manual_seed(0)
    save_file(
        build_model("cifar_resnet8", num_classes=1000, channels=3, size=32).state_dict(), root / "teacher.safetensors"
    )
    return root


def recipe(root: Path, **sections: object) -> Recipe:
    content = {
        "name": "of_four",
        "data": {"name": "four", "size": 32, "buffer": 64, "random_crop": True, "augment": ["flip"]},
        "teacher": {"model": "cifar_resnet8", "weights": str(root / "teacher.safetensors")},
        "student": {"model": "cifar_resnet8"},
        "method": {"name": "kd"},
        "student_optim": {"name": "sgd", "lr": 0.1},
        "schedule": {"steps": 2, "report_every": 1, "global_batch": 8},
    }
    return recipe_from_dict({**content, **sections})


def test_a_teacher_of_all_classes_answers_for_those_of_the_set(root: Path, tmp_path: Path) -> None:
    experiment, workspace = resolve(recipe(root)), Workspace(root, tmp_path)
    spec = build_spec(experiment.recipe.data, workspace)
    teacher, _ = load_teacher(experiment, spec, workspace)
    whole = network(1000).eval()
    whole.load_state_dict(load_file(root / "teacher.safetensors"))
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = whole(images)
    torch.testing.assert_close(teacher(images)[0], expected[:, LABELS])


def test_weights_for_another_number_of_classes_are_refused(root: Path, tmp_path: Path) -> None:
    save_file(network(7).state_dict(), tmp_path / "seven.safetensors")
    other = resolve(recipe(root, teacher={"model": "cifar_resnet8", "weights": str(tmp_path / "seven.safetensors")}))
    workspace = Workspace(root, tmp_path)
    with pytest.raises(UsageError, match="is for 7 classes, the model was built for 4"):
        load_teacher(other, build_spec(other.recipe.data, workspace), workspace)


def test_a_student_is_trained_and_evaluated(root: Path, tmp_path: Path) -> None:
    experiment = resolve(recipe(root))
    place = RunContext(World.alone(), Workspace(root, tmp_path), Runtime(), LocalReporter)
    result = run(experiment, place)
    assert result.data_opened["train"] == ["four/train"]
    again = evaluate_run(place.workspace.run(experiment.run_id), root, World.alone())
    assert result.last is not None and again.last is not None
    assert again.last.top1 == result.last.top1
    assert again.last.agreement == result.last.agreement


@pytest.mark.endurance
@pytest.mark.skipif(not os.environ.get("RAYKD_DATA"), reason="needs tiny-imagenet-50")
def test_photos_from_the_command_line_to_a_student_at_224(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten classes of Tiny-ImageNet, enlarged to odd sizes: converted, killed, converted, taught and evaluated."""
    wnids = write_photos(tmp_path / "source", Path(os.environ["RAYKD_DATA"]) / "tiny-imagenet-50", 10)
    (tmp_path / "ten.txt").write_text("\n".join(wnids))
    torch.manual_seed(0)
    whole = build_model("torchvision/resnet18", num_classes=1000, channels=3, size=224)
    save_file(whole.state_dict(), tmp_path / "t.safetensors")
    shown = {"name": "ten", "buffer": 400, "random_crop": True, "augment": ["flip"]}
    optim = {"student_optim": {"name": "sgd", "lr": 0.1}, "student": {"model": "torchvision/resnet18"}}
    schedule = {"steps": 2, "report_every": 2, "global_batch": 8}
    teacher = {"model": "torchvision/resnet18", "weights": "t.safetensors"}
    for method, more in (("supervised", {}), ("kd", {"teacher": teacher})):
        content = {"data": shown, "method": method, "schedule": schedule, **optim, **more}
        (tmp_path / f"{method}.yaml").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYKD_DATA", "data")
    convert_words = [
        "data",
        "imagenet",
        "--source",
        "source",
        "--classes",
        "ten.txt",
        "--out",
        "data",
        "--workers",
        "2",
    ]
    killed = subprocess.Popen([sys.executable, "-m", "raykd", *convert_words], start_new_session=True)
    while not (tmp_path / "data" / ".ten.converting" / "lock").exists() and killed.poll() is None:
        time.sleep(0.05)
    time.sleep(1)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "data" / "ten").exists()
    said = command(*convert_words)
    assert "train   300 images" in said
    assert "test    100 images" in said
    for method in ("supervised", "kd"):
        command("train", f"{method}.yaml", "--json")
        figures = json.loads(command("evaluate", next(Path("runs").glob(f"{method}-*")).as_posix(), "--json"))
        assert 0 <= figures["last"]["accuracy/top1"] <= 100
    statistics = json.loads(command("statistics", "kd.yaml", "--per-class", "5", "--json"))
    assert statistics["counts"] == [5] * 10


def write_photos(folder: Path, source: Path, classes: int) -> list[str]:
    """Write images of some classes of a set, enlarged to odd sizes, as train/WNID/* and val/WNID/*."""
    rng = np.random.default_rng(0)
    chosen: list[str] = []
    for split, place, most in (("train", "train", 30), ("test", "val", 10)):
        files = parquet.find_files(source, split)
        wnids = json.loads(parquet.read_metadata(files[0])["wnids"])
        labels = [label for label, wnid in enumerate(wnids) if wnid in all_wnids()][:classes]
        chosen = [wnids[label] for label in labels]
        seen = dict.fromkeys(labels, 0)
        for row in (row for file in files for row in pq.read_table(file).to_pylist()):
            if seen.get(row["label"], most) < most:
                seen[row["label"]] += 1
                height, width = rng.integers(200, 520, 2).tolist()
                path = folder / place / wnids[row["label"]] / f"{seen[row['label']]}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.open(io.BytesIO(row["image"])).resize((width, height)).save(path, quality=90)
    return chosen


def command(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "raykd", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
