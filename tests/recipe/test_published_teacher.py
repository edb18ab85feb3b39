"""What a recipe leaves open its published teacher's publishers say, and what it says itself holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from raykd.data.datasets import data_spec
from raykd.errors import UsageError
from raykd.recipe.experiment import experiment_from_dict, resolve
from raykd.recipe.published_teacher import complete, find_contradictions
from raykd.recipe.recipe import Recipe, load_recipe, recipe_from_dict
from raykd.recipe.sections import DataConfig, NetworkConfig, TeacherConfig
from tests.models.test_transformers_folder import change, save_vit

TORCHVISION = TeacherConfig(model="torchvision/resnet50", weights="DEFAULT")


def recipe(folder: Path, **data: Any) -> Recipe:
    described = {"name": "mine", "num_classes": 3, "channels": 1, "size": 16, "test": False, **data}
    return recipe_from_dict(
        {
            "name": "mine", "data": described, "teacher": {"model": f"hf/{folder}"},
            "student": {"model": "lenet5_half"},
            "method": {"name": "noise"}, "student_optim": {"name": "adam", "lr": 1e-3},
            "schedule": {"steps": 2, "report_every": 1, "global_batch": 8},
        }
    )  # fmt: skip


def test_what_the_data_leave_open_is_filled_in() -> None:
    data, teacher = complete(DataConfig(name="imagenet"), TORCHVISION)
    assert teacher.weights == "IMAGENET1K_V2", "which DEFAULT means today"
    assert (data.size, data.mean, len(data.class_names)) == (224, (0.485, 0.456, 0.406), 1000)
    assert complete(data, teacher) == (data, teacher)


def test_what_the_recipe_says_holds_and_is_told() -> None:
    data, _ = complete(DataConfig(name="imagenet", size=192, mean=(0.5, 0.5, 0.5)), TORCHVISION)
    assert (data.size, data.mean, data.std) == (192, (0.5, 0.5, 0.5), (0.229, 0.224, 0.225))
    spec = data_spec("imagenet", size=192, mean=data.mean, std=data.std)
    mean, size = find_contradictions(spec, TORCHVISION)
    assert mean.startswith("data.mean is [0.5, 0.5, 0.5], and torchvision's ResNet50_Weights.IMAGENET1K_V2 says [0.485")
    assert size.startswith("data.size is 192, and ")
    rounded = data_spec("imagenet", mean=(0.4855, 0.4565, 0.4062), std=data.std)
    assert find_contradictions(rounded, TORCHVISION) == []


def test_names_of_other_classes_are_not_taken() -> None:
    assert complete(DataConfig(name="cifar10"), TORCHVISION)[0].class_names == (), "the set has its own"
    described = DataConfig(name="mine", num_classes=5, channels=3, size=32, test=False)
    assert complete(described, TORCHVISION)[0].class_names == ()


def test_timms_constants_are_of_the_channels_that_it_knows() -> None:
    own = TeacherConfig(model="timm/test_resnet", weights="mine.safetensors")
    described: dict[str, Any] = {"name": "mine", "num_classes": 5, "size": 32, "test": False}
    assert complete(DataConfig(**described, channels=1), own)[0].mean is None
    assert complete(DataConfig(**described, channels=3), own)[0].mean == (0.5, 0.5, 0.5)
    published = TeacherConfig(model="timm/test_resnet", weights="DEFAULT")
    assert complete(DataConfig(name="imagenet"), published)[1].model == "timm/test_resnet.r160_in1k"


def test_weights_of_the_users_own_keep_size_and_constants_of_a_set_and_it_is_told() -> None:
    own, data = TeacherConfig(model="timm/test_resnet", weights="mine.safetensors"), DataConfig(name="cifar10")
    assert complete(data, own)[0] == data, "timm speaks of other weights"
    mean, std, size = find_contradictions(data_spec("cifar10"), own)
    assert size == "data.size is 32, and timm's pretrained_cfg of test_resnet says 160: the data's is taken"


def test_weights_of_others_names_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown weights of timm/test_resnet 'IMAGENET1K_V1'"):
        complete(DataConfig(name="imagenet"), TeacherConfig(model="timm/test_resnet", weights="IMAGENET1K_V1"))


def test_a_resolved_recipe_needs_no_folder(tmp_path: Path) -> None:
    save_vit(tmp_path / "vit")
    found = resolve(recipe(tmp_path / "vit"))
    assert found.recipe.teacher is not None
    assert found.recipe.teacher.weights == f"{tmp_path}/vit/model.safetensors"
    assert found.recipe.data.class_names == ("class 0", "class 1", "class 2")
    (tmp_path / "vit" / "config.json").unlink()
    stored = json.loads(json.dumps(found.to_dict()))
    assert experiment_from_dict(stored) == found
    assert resolve(found.recipe).run_id == found.run_id


def test_the_id_has_the_architecture_and_no_names(tmp_path: Path) -> None:
    save_vit(tmp_path / "vit")
    before = resolve(recipe(tmp_path / "vit")).run_id
    assert resolve(recipe(tmp_path / "vit", class_names=["a", "b", "c"])).run_id == before
    change(tmp_path / "vit", hidden_act="relu")
    assert resolve(recipe(tmp_path / "vit")).run_id != before


def test_a_folder_is_found_beside_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_vit(tmp_path / "there" / "vit")
    content = recipe(Path("vit")).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "there" / "mine.yaml").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    teacher = load_recipe("there/mine.yaml").teacher
    assert teacher is not None
    assert teacher.model == "hf/there/vit"


def test_control_characters_in_names_are_refused(tmp_path: Path) -> None:
    save_vit(tmp_path / "vit")
    change(tmp_path / "vit", id2label={"0": "a\x1b[2J", "1": "b", "2": "c"})
    with pytest.raises(UsageError, match="no control characters"):
        resolve(recipe(tmp_path / "vit"))


def test_a_folder_is_no_student() -> None:
    with pytest.raises(ValueError, match="a trained classifier, so a teacher"):
        NetworkConfig(model="hf/vit")
