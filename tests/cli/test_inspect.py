"""What can be told of a teacher before training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raykd.data.datasets import data_spec, load_images
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.methods import METHODS
from raykd.models import build_model
from raykd.spec import DataSpec
from tests.cli.conftest import Raykd, WriteRecipe

YAML = "data: digits\nteacher: {factory: 'mine:net', weights: mine.safetensors}\n"
MINE = (
    "from raykd.models import build_model\n"
    "def net():\n"
    "    return build_model('lenet5_bn', num_classes=10, channels=1, size=32)\n"
)


def inspect(raykd: Raykd, *arguments: str) -> dict[str, Any]:
    done = raykd("inspect", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def mine() -> Path:
    """A user's own network with BatchNorm, its statistics moved once."""
    Path("mine.py").write_text(MINE)
    Path("mine.yaml").write_text(YAML)
    torch.manual_seed(0)
    network = build_model("lenet5_bn", num_classes=10, channels=1, size=32)
    network.train()(torch.randn(16, 1, 32, 32))
    save_file(network.state_dict(), "mine.safetensors")
    return Path("mine.safetensors")


def test_a_network_of_the_users_own(raykd: Raykd, mine: Path) -> None:
    network = build_model("lenet5_bn", num_classes=10, channels=1, size=32)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    found = inspect(raykd, "mine.yaml")
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["batch_norm_layers"] == len(norms) > 0
    assert found["feature_width"] == 120, "of LeNet-5's first linear layer, as in DAFL"
    assert found["classes"] == 10
    assert not any(found["batch_norm_faults"].values())
    assert found["invertible"] is True
    assert 0 <= found["accuracy/top1"] <= 100
    assert len(found["sha256"]) == 64
    methods = found["methods"]
    assert methods.keys() == METHODS.keys()
    needs = {name: verdict["needs"] for name, verdict in methods.items() if verdict["verdict"] == "usable"}
    assert needs["dafl"] == needs["lsgdfd"] == ["no data"]
    assert needs["kd"] == ["train: images of its classes"]
    assert needs["mosaickd"] == ["ood: images of another domain"]
    assert needs["bank_kd"] == ["a bank of generators made from it"]
    assert f"{len(norms)} BatchNorm layers whose statistics images can match" in methods["lsgdfd"]["pros"]
    assert methods["supervised"]["reasons"] == ["it learns from no teacher"]
    assert found["negative_features"] == 0
    shown = raykd("inspect", "mine.yaml").stdout
    assert "mine:net" in shown
    for word in ("verdict", "against", *METHODS):
        assert word in shown


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("running_var", float("nan"), "not_finite"),
        ("running_var", 0.0, "zero_variance"),
        ("running_mean", None, "never_updated"),
    ],
)
def test_sick_statistics_are_named(raykd: Raykd, mine: Path, key: str, value: float | None, fault: str) -> None:
    weights = load_file(mine)
    name = next(name for name in weights if name.endswith(key))
    layer = name.rpartition(".")[0]
    if value is None:
        weights[f"{layer}.running_mean"].zero_()
        weights[f"{layer}.running_var"].fill_(1)
    else:
        weights[name][0] = value
    save_file(weights, mine)
    found = inspect(raykd, "mine.yaml")
    assert found["batch_norm_faults"][fault] == [layer]
    assert found["invertible"] is False
    verdict = found["methods"]["dafl"]
    assert verdict["verdict"] == "refused" if key == "running_var" and value else "BatchNorm" in verdict["cons"][0]


def test_a_teacher_without_gradient_cannot_be_inverted(raykd: Raykd) -> None:
    Path("mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(1024, 10)\n"
        "    def forward(self, x):\n"
        "        return self.head((x > 0).float().flatten(1))\n"
        "def net():\n"
        "    return Net()\n"
    )
    Path("mine.yaml").write_text(YAML)
    head = nn.Linear(1024, 10)
    save_file({"head.weight": head.weight.data, "head.bias": head.bias.data}, "mine.safetensors")
    found = inspect(raykd, "mine.yaml")
    assert found["gradient_to_input"] is False
    assert found["methods"]["dafl"]["verdict"] == "refused"
    assert "no gradient reaches the input" in found["methods"]["dafl"]["reasons"]
    assert found["methods"]["kd"]["verdict"] == "usable"
    assert "no BatchNorm layer" in found["methods"]["lsgdfd"]["reasons"][-1]


def test_recipe_and_run(raykd: Raykd, tiny: WriteRecipe) -> None:
    recipe = tiny()
    of_recipe = inspect(raykd, recipe)
    assert of_recipe["source"] == "lenet5"
    assert of_recipe["methods"]["lsgdfd"]["reasons"] == [
        "no BatchNorm layer whose statistics could be matched (all convolutions have biases, into which it may have "
        "been folded)"
    ]
    result = json.loads(raykd("train", recipe, "--json").stdout)
    assert of_recipe["accuracy/top1"] == pytest.approx(result["teacher/accuracy/top1"])
    of_run = inspect(raykd, result["directory"])
    assert of_run["source"] == "lenet5_half"
    assert of_run["accuracy/top1"] == pytest.approx(result["blind"]["accuracy/top1"])


def test_without_data_the_rest_is_told(raykd: Raykd, tiny: WriteRecipe) -> None:
    found = inspect(raykd, tiny(data="mnist"))
    assert found["parameters"] == 61_706
    assert "accuracy/top1" not in found
    assert "RAYKD_DATA" in found["test_missing"]
    described = {"name": "mine", "num_classes": 10, "channels": 1, "size": 32, "test": False}
    assert inspect(raykd, tiny(data=described))["test_missing"] == "no test split (test: false)"


@pytest.mark.parametrize(
    ("text", "arguments", "word"),
    [
        (YAML.replace("data:", "dta:"), [], "dta"),
        (YAML.replace("weights", "weight"), [], "teacher.weights"),
        (YAML, ["teacher.wights=x"], "teacher.weights"),
        ("data: digits\n", [], "'teacher' is required"),
    ],
)
def test_slips(raykd: Raykd, mine: Path, text: str, arguments: list[str], word: str) -> None:
    Path("mine.yaml").write_text(text)
    wrong = raykd("inspect", "mine.yaml", *arguments)
    assert wrong.exit_code == 2
    assert word in wrong.stderr


@pytest.fixture
def of_digits(mine: Path) -> DataSpec:
    """The user's network with the BatchNorm statistics of digits."""
    spec = data_spec("digits")
    images = load_images("digits", "train", spec, None)
    torch.manual_seed(0)
    network = build_model("lenet5_bn", num_classes=10, channels=1, size=32).train()
    for _ in range(3):
        for batch in evaluation_batches(images, spec, World.alone(), 100):
            network(batch.images)
    save_file(network.state_dict(), mine)
    return spec


def test_wrong_constants_are_noticed_by_what_batch_norm_sees(raykd: Raykd, of_digits: DataSpec) -> None:
    spec = of_digits
    found = inspect(raykd, "mine.yaml")
    assert (found["mean"], found["std"]) == (list(spec.mean), list(spec.std))
    assert found["batch_norm_gap"] < 0.4
    assert not any("data.mean" in note for note in found["notes"])
    wrong = inspect(raykd, "mine.yaml", "data.mean=[0.0]", "data.std=[1.0]")
    assert wrong["batch_norm_gap"] > 1
    assert any("check data.mean and data.std, here [0.0] and [1.0]" in note for note in wrong["notes"])


def test_without_images_the_first_norm_tells_of_wrong_constants(raykd: Raykd, of_digits: DataSpec) -> None:
    data = {"name": "digits", "num_classes": 10, "channels": 1, "size": 32, "test": False}
    pairs = [f"data={json.dumps(data)}", f"data.mean={list(of_digits.mean)}", f"data.std={list(of_digits.std)}"]
    found = inspect(raykd, "mine.yaml", *pairs)
    assert "batch_norm_gap" not in found
    assert found["implied_mean"] == pytest.approx(of_digits.mean, abs=0.1)
    assert found["implied_std"] == pytest.approx(of_digits.std, abs=0.12)
    assert not any("data.mean" in note for note in found["notes"])
    assert "the data is described, not held" in found["methods"]["kd"]["reasons"][0]
    assert found["methods"]["lsgdfd"]["verdict"] == "limited"
    wrong = inspect(raykd, "mine.yaml", pairs[0], "data.mean=[0.0]", "data.std=[1.0]")
    (note,) = [note for note in wrong["notes"] if "data.mean" in note]
    assert "check them; by those of digits it would be 0.3" in note
    assert "data.mean and data.std look wrong: see notes" in wrong["methods"]["dafl"]["cons"]


def test_weights_alone_are_looked_at(raykd: Raykd, teacher: Path) -> None:
    found = inspect(raykd, teacher.name, "data.name=digits", "data.mean=[0.5]")
    assert (found["source"], found["data"], found["mean"]) == ("lenet5", "digits", [0.5])
    done = raykd("inspect", teacher.name)
    assert done.exit_code == 2
    assert f"which set was {teacher.name} trained on? Say it by data.name=NAME" in done.stderr
