"""What is built of a recipe: no more data than its method wants, be it no image, and no run that is not there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.build import build_spec, load_teacher
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError, UsageError
from raykd.files import sha256_of
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.workspace import Workspace
from tests.engine.test_bank_run import STEPS
from tests.engine.test_run import SHORT
from tests.golden.shrunk import shrunk
from tests.models.test_torchvision_zoo import NAME, publish

DESCRIBED = "data={name: mine, num_classes: 10, channels: 1, size: 32, test: false}"
SMALL = ["method.generator_width=4", "schedule={steps: 4, report_every: 2, global_batch: 8}", "controls=[]"]


def test_a_student_is_trained_and_selected_without_an_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = tmp_path / "teacher.safetensors"
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), teacher)
    recipe = load_recipe("dafl_digits", [DESCRIBED, f"teacher={{model: lenet5, weights: {teacher}}}", *SMALL])
    place = RunContext(World.alone(), Workspace(None, tmp_path / "runs"), Runtime(), LocalReporter)
    result = run(resolve(recipe), place)
    assert result.data_opened == {"train": [], "synthetic": [], "ood": [], "calibration": [], "test": [], "teacher": []}
    assert result.blind is not None
    assert set(result.blind.to_dict()) == {"step", "blind/agreement", "blind/kl"}
    assert result.best is None, "there is no test split to peek at"
    lines = (tmp_path / "runs" / resolve(recipe).run_id / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert all(0 <= json.loads(line)["blind/agreement"] <= 100 for line in lines)
    assert (tmp_path / "runs" / resolve(recipe).run_id / "student.safetensors").is_file()


@pytest.mark.parametrize(
    ("recipe", "pair"), [("lsgdfd_digits", "bank={run: gone}"), ("dafl_digits", "referee={run: gone, images: 9}")]
)
def test_a_run_that_does_not_exist_is_missed_before_the_teacher_is_trained(
    tmp_path: Path, recipe: str, pair: str
) -> None:
    with shrunk(STEPS, tmp_path) as (place, load), pytest.raises(UsageError, match="gone does not exist"):
        run(resolve(load(recipe, [pair])), place)
    assert not place.workspace.store.exists()


@pytest.mark.parametrize("name", ["dafl_mnist", "noise_mnist", "kd_mnist"])
def test_data_free_means_without_the_training_set(tmp_path: Path, name: str) -> None:
    pairs = [*SHORT, "teacher={model: lenet5, weights: made.safetensors}"]
    with shrunk(2, tmp_path) as (place, load):
        recipe = load(name, pairs)
        for path in (tmp_path / "data" / "mnist").glob("train-*"):
            path.unlink()
        if name == "kd_mnist":
            with pytest.raises(UsageError, match=r"'mnist': no file matches .*train.*splits there: test"):
                run(resolve(recipe), place)
            return
        result = run(resolve(recipe), place)
    environment = json.loads((place.workspace.store / resolve(recipe).run_id / "environment.json").read_text())
    expected = {"train": [], "synthetic": [], "ood": [], "calibration": [], "test": ["mnist/test"], "teacher": []}
    assert environment["data_opened"] == result.data_opened == expected
    assert len(environment["teacher_sha256"]) == 64


def test_embeddings_that_were_replaced_are_noticed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, embeddings = tmp_path / "teacher.safetensors", tmp_path / "names.safetensors"
    save_file(build_model("lenet5_bn", num_classes=10, channels=1, size=32).state_dict(), teacher)
    method = ["generator_maps=[4,4]", "inner_steps=1", "warmup_calls=1", "student_steps=1", "latent=file"]
    pairs = [*(f"method.{one}" for one in method), f"method.embeddings={embeddings}", *SMALL[1:]]
    given = f"teacher={{model: lenet5_bn, weights: {teacher}}}"
    experiment = resolve(load_recipe("fast_digits", [DESCRIBED, given, *pairs]))
    place = RunContext(World.alone(), Workspace(None, tmp_path / "runs"), Runtime(), LocalReporter)

    def give(number: float) -> None:
        save_file({"names": torch.eye(10) * number}, embeddings)

    give(1)
    with pytest.raises(Interrupted):
        run(experiment, replace(place, until=2))
    give(2)
    with pytest.raises(
        UsageError, match=r"the method's embeddings are not those that run fast_\S+ began with \(sha256 "
    ):
        run(experiment, place)
    give(1)
    run(experiment, place)
    assert len(place.workspace.run(experiment.run_id).environment()["embeddings_sha256"]) == 64
    give(2)
    with pytest.raises(
        UsageError, match=r"is finished, and \S+ was replaced since: its embeddings had sha256 .* now it"
    ):
        run(experiment, place)
    embeddings.unlink()
    run(experiment, place)


def test_published_weights_that_are_damaged_give_way_to_the_stores_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, workspace = publish(monkeypatch, tmp_path / "home"), Workspace(None, tmp_path / "runs")
    data = "data={name: mine, num_classes: 1000, channels: 3, size: 32, test: false}"
    teacher = f"teacher={{model: torchvision/{NAME}, weights: IMAGENET1K_V1}}"
    experiment = resolve(load_recipe("dafl_digits", [data, teacher, *SMALL]))
    spec, sha256 = build_spec(experiment.recipe.data, workspace), sha256_of(path)
    workspace.keep_weights(sha256, load_teacher(experiment, spec, workspace)[0].network)
    path.write_bytes(path.read_bytes() + b"!")
    assert load_teacher(experiment, spec, workspace, sha256=sha256)[1] == sha256
    with pytest.raises(CorruptError, match="its name tells a sha256"):
        load_teacher(experiment, spec, workspace)
