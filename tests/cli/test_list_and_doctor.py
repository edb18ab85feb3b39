"""What there is, and what this machine has."""

import json
from pathlib import Path

import pytest

from raykd.distributed.host import HostReport
from raykd.methods import METHODS
from raykd.models import MODELS
from tests.cli.conftest import Raykd


@pytest.fixture(autouse=True)
def arithmetic_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    report = HostReport(threads=1, allocator="default", matmul="onednn", matmul_error=1e-7)
    monkeypatch.setattr("raykd.tasks.doctor.prepare_host", lambda: report)


def entries(raykd: Raykd, kind: str) -> dict[str, str]:
    found = json.loads(raykd("list", kind, "--json").stdout)[kind]
    return {entry["name"]: entry["description"] for entry in found}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", set(METHODS)),
        ("models", set(MODELS)),
        ("datasets", {"digits", "mnist", "imagenet"}),
        ("recipes", {"dafl_digits"}),
        ("tables", {"dafl_mnist", "tfkd_cifar100"}),
        ("spaces", {"dafl_digits", "student_architecture"}),
        ("clusters", {"local"}),
    ],
)
def test_every_name_has_a_line(raykd: Raykd, kind: str, names: set[str]) -> None:
    found = entries(raykd, kind)
    assert names <= found.keys()
    assert all(found.values())
    plain = raykd("list", kind).stdout.splitlines()
    assert [line.split("  ")[0] for line in plain] == list(found)


def test_data_sets_say_whether_they_are_there(raykd: Raykd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usps").mkdir()
    (tmp_path / "usps/test-00000-of-00001.parquet").touch()
    monkeypatch.setenv("RAYKD_DATA", str(tmp_path))
    found = entries(raykd, "datasets")
    assert found["usps"] == "1x32x32, 10 classes; test"
    assert found["mnist"].endswith("not under the data root")
    assert found["digits"].endswith("train, test")


def test_a_sound_machine(raykd: Raykd) -> None:
    done = raykd("doctor", "--json")
    assert done.exit_code == 0, done.stdout
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {"versions", "memory", "GPU", "torch", "torch.compile", "ray", "disk"} <= checks.keys()
    assert checks["data root"]["state"] == "missing"
    assert checks["products"]["value"] == "onednn, relative error 1.0e-07"
    assert "digits (train, test)" in checks["data sets"]["value"]


def test_an_error_is_told_of_the_products_that_have_it(raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    rejected = HostReport(threads=1, allocator="default", matmul="default", matmul_error=2.4e-3)
    monkeypatch.setattr("raykd.tasks.doctor.prepare_host", lambda: rejected)
    assert "default (oneDNN's are off by 2.4e-03)" in raykd("doctor").stdout


def test_what_is_broken_ends_with_3(raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_DATA", "gone")
    done = raykd("doctor")
    assert done.exit_code == 3
    assert "broken: data root: RAYKD_DATA names no folder: gone" in done.stderr
