"""What there is: every name with a line, and data sets with whether they are there."""

import json
from pathlib import Path

import pytest

from raykd.methods import METHODS
from raykd.models import MODELS
from tests.cli.conftest import Raykd


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
