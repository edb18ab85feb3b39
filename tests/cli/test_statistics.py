"""Statistics by class from the command line: of a file, a run, and what is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raykd.data.datasets import data_spec, load_images
from raykd.models import build_model
from tests.cli.conftest import Raykd, WriteRecipe

YAML = "data: digits\nteacher: {model: lenet5_bn, weights: mine.safetensors}\n"
SPEC = data_spec("digits")


@pytest.fixture
def mine() -> nn.Module:
    """A LeNet-5 with BatchNorm after a few steps on digits, its weights and the file that names them."""
    torch.manual_seed(0)
    network = build_model("lenet5_bn", num_classes=10, channels=1, size=32)
    images = load_images("digits", "train", SPEC, None)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(3):
        rows = slice(64 * step, 64 * step + 64)
        logits = network(SPEC.normalise(images.pixels[rows] / 255))
        nn.functional.cross_entropy(logits, images.labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_file(network.state_dict(), "mine.safetensors")
    Path("mine.yaml").write_text(YAML)
    return network.eval()


def statistics(raykd: Raykd, *arguments: str) -> dict[str, Any]:
    done = raykd("statistics", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_network_of_the_users_own(raykd: Raykd, mine: nn.Module) -> None:
    made = statistics(raykd, "mine.yaml", "--per-class", "20", "--out", "kept/s.safetensors")
    weights = Path("mine.safetensors").read_bytes()
    assert made["teacher_sha256"] == hashlib.sha256(weights).hexdigest()
    assert made["data_opened"] == {
        "train": [], "synthetic": [], "ood": [], "calibration": ["digits/train"], "test": [], "teacher": [],
    }  # fmt: skip
    assert (made["teacher"], made["data"], made["per_class"], made["counts"]) == ("mine", "digits", 20, [20] * 10)
    assert made["bytes"] == Path("kept/s.safetensors").stat().st_size
    norms = [name for name, m in mine.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert [layer["name"] for layer in made["layers"]] == norms

    seen: list[torch.Tensor] = []
    mine.get_submodule(norms[0]).register_forward_hook(lambda m, args, out: seen.append(args[0]))
    images = load_images("digits", "train", SPEC, None)
    with torch.no_grad():
        mine(SPEC.normalise(images.pixels[images.labels == 7][:20] / 255))
    found = load_file("kept/s.safetensors")
    assert torch.allclose(found[f"{norms[0]}.mean"][7], seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert torch.allclose(found[f"{norms[0]}.var"][7], seen[0].var((0, 2, 3), unbiased=False), rtol=1e-4)


def test_the_file_is_named_after_what_is_in_it_and_may_be_made_again(raykd: Raykd, mine: nn.Module) -> None:
    for _ in range(2):
        done = raykd("statistics", "mine.yaml", "--per-class", "3")
        assert done.exit_code == 0, done.stderr
    assert Path("statistics-mine-digits-3.safetensors").is_file()
    for word in ("3 of each of 10 classes", "calibration: digits/train", "statistics-mine-digits-3.safetensors"):
        assert word in done.stdout
    widths = [len(m.weight) for m in mine.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(f"{20 * width:,}" in done.stdout for width in widths)


def test_of_a_finished_run(raykd: Raykd, tiny: WriteRecipe) -> None:
    result = json.loads(raykd("train", tiny(student={"model": "lenet5_bn"}), "--json").stdout)
    directory = Path(result["directory"])
    made = statistics(raykd, str(directory), "--per-class", "2")
    assert made["file"] == f"statistics-{directory.name}-digits-2.safetensors"
    (directory / "student.safetensors").unlink()
    unfinished = raykd("statistics", str(directory), "--per-class", "2")
    assert unfinished.exit_code == 2
    assert "not finished" in unfinished.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.yaml"], 2, "gone"),
        (["mine.yaml", "--per-class", "1"], 2, "per_class is 1"),
        (["mine.yaml", "--data", "cifar100"], 2, "--data 'cifar100' has 100 classes, the teacher has 10"),
        (["mine.yaml", "--data", "mnist"], 2, "RAYKD_DATA"),
        (["mine.yaml", "--data", "digit"], 2, "did you mean 'digits'?"),
        (["mine.yaml", "--out", "mine.safetensors"], 2, "no file of statistics by class"),
        (["mine.yaml", "--out", "."], 2, "is a folder"),
        (["mine.yaml", "--out", "mine.yaml/s.safetensors"], 3, "could not write"),
        (["mine.yaml", "teacher.model=lenet5", "teacher.weights=teacher.safetensors"], 2, "lenet5_bn"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    raykd: Raykd, mine: nn.Module, teacher: Path, arguments: list[str], code: int, message: str
) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    done = raykd("statistics", *arguments)
    assert done.exit_code == code, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
