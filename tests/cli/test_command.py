"""Each slip of a user: the exit code, and a line that names what was got and what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raykd.models import build_model
from tests.cli.conftest import Raykd, WriteRecipe

LENET = {"model": "lenet5", "weights": "teacher.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "dafl_digit"], ["unknown recipe 'dafl_digit'", "did you mean 'dafl_digits'"]),
        (["train", "no/such.yaml"], ["no recipe file 'no/such.yaml'"]),
        (["train", "dafl_digits", "method.onehot=1"], ["method.onehot_weight"]),
        (["train", "dafl_digits", "seed"], ["KEY=VALUE", "'seed'"]),
        (["train", "dafl_digits", "schedule.steps=many"], ["schedule.steps", "'many'"]),
        (["train", "dafl_digits", "schedule.steps=-5"], ["schedule.steps", "-5"]),
        (["train", "dafl_digits", "--cluster", "locl"], ["'locl'", "'local'"]),
        (["train", "dafl_digits", "--seeds", "0"], ["--seeds"]),
        (["evaluate", "nowhere"], ["nowhere does not exist"]),
        (["evaluate", "."], ["not a run directory"]),
        (["inspect", "dafl_digits"], ["supervised_digits_lenet5", "raykd train"]),
        (["data", "mnst", "--out", "d"], ["'mnst'", "'mnist'"]),
        (["train", "dafl_digits", "--out", "s3://"], ["'--out'", "s3://BUCKET/FOLDER"]),
        (["evaluate", "ftp://host/run"], ["'RUN'", "s3://BUCKET/FOLDER"]),
        (["data", "mnist", "--out", "d"], ["--source", "--download"]),
    ],
)
def test_usage(raykd: Raykd, arguments: list[str], words: list[str], teacher: Path) -> None:
    wrong = raykd(*arguments)
    assert wrong.exit_code == 2
    assert [word for word in words if word not in wrong.stderr] == []
    assert wrong.stdout == ""
    assert "Traceback" not in wrong.stderr


def save(network: nn.Module) -> None:
    save_file(network.state_dict(), "teacher.safetensors")


def other_classes() -> None:
    save(build_model("lenet5", num_classes=7, channels=1, size=32))


def other_channels() -> None:
    save(build_model("lenet5", num_classes=10, channels=3, size=32))


def pickled_module() -> None:
    torch.save(nn.Linear(2, 2), "module.pt")


def headless() -> None:
    Path("mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "def seven():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 7))\n"
    )
    save(nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def seven() -> None:
    headless()
    save(nn.Sequential(nn.Flatten(), nn.Linear(1024, 7)))


@pytest.mark.parametrize(
    ("prepare", "sections", "words"),
    [
        (other_classes, {}, ["7 classes", "10"]),
        (other_channels, {}, ["teacher.safetensors"]),
        (seven, {"teacher": {**LENET, "model": None, "factory": "mine:seven"}}, ["7 classes"]),
        (
            headless,
            {"teacher": {**LENET, "model": None, "factory": "mine:net"}},
            ["linear layer", "nn.Linear"],
        ),
        (
            pickled_module,
            {"teacher": {**LENET, "weights": "module.pt"}},
            ["pickled", "state_dict"],
        ),
        (None, {"teacher": {**LENET, "weights": "gone.pt"}}, ["gone.pt", "RAYKD_DATA"]),
        (None, {"student": {"model": "lenet55"}}, ["unknown model 'lenet55'", "'lenet5'"]),
        (None, {"data": "digit"}, ["unknown data set 'digit'", "'digits'"]),
        (None, {"teacher": None}, ["'teacher' section"]),
        (None, {"data": {"name": "digits", "size": 20}}, ["20"]),
        (None, {"data": "mnist"}, ["mnist", "RAYKD_DATA", "raykd data mnist"]),
    ],
)
def test_what_does_not_fit(
    raykd: Raykd,
    tiny: WriteRecipe,
    prepare: Callable[[], None] | None,
    sections: dict[str, object],
    words: list[str],
) -> None:
    recipe = tiny(**sections)
    if prepare is not None:
        prepare()
    wrong = raykd("train", recipe)
    assert wrong.exit_code == 2, wrong.stderr
    assert [word for word in words if word not in wrong.stderr] == []
    assert wrong.stderr.splitlines()[-1].startswith("error: ")


def test_workers_that_do_not_divide_the_batch(raykd: Raykd, tiny: WriteRecipe) -> None:
    Path("three.yaml").write_text("workers: 3\n")
    wrong = raykd("train", tiny(), "--cluster", "three.yaml")
    assert wrong.exit_code == 2
    assert "do not divide" in wrong.stderr


def test_a_data_root_without_the_set(
    raykd: Raykd, tiny: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_DATA", str(tmp_path))
    wrong = raykd("train", tiny(data="usps"))
    assert wrong.exit_code == 2
    assert str(tmp_path / "usps") in wrong.stderr


def test_damaged_weights(raykd: Raykd, tiny: WriteRecipe, teacher: Path) -> None:
    recipe = tiny()
    teacher.write_bytes(teacher.read_bytes()[:1000])
    damaged = raykd("train", recipe)
    assert damaged.exit_code == 4
    assert "damaged" in damaged.stderr


def test_a_run_that_fails(raykd: Raykd, tiny: WriteRecipe) -> None:
    failed = raykd("train", tiny(student_optim={"name": "sgd", "lr": 1e30}))
    assert failed.exit_code == 1
    assert "not finite" in failed.stderr


@pytest.mark.parametrize("command", [("list", "datasets"), ("train", "kd_digits", "--out", "s3a://key:hu/sh@bucket/x")])
def test_a_secret_in_an_address_is_not_repeated(
    raykd: Raykd, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("RAYKD_DATA", "s3a://key:hu/sh@bucket/x")
    refused = raykd(*command)
    assert refused.exit_code == 2
    assert "'s3a://...@bucket/x'" in refused.stderr
    assert "key" not in refused.output
