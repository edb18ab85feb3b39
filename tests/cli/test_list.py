"""What there is: every name with a line, and data sets with whether they are there."""

import json
from pathlib import Path

import pytest

from raykd.data import parquet
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
    metadata = {
        "name": "usps", "split": "test", "count": "1", "shape": "[16, 16, 1]", "encoding": parquet.RAW,
        "classes": json.dumps([str(digit) for digit in range(10)]),
    }  # fmt: skip
    parquet.write(tmp_path / "usps", "test", [(bytes(256), 0)], metadata)
    monkeypatch.setenv("RAYKD_DATA", str(tmp_path))
    found = entries(raykd, "datasets")
    assert found["usps"] == "1x32x32, 10 classes; test"
    assert found["mnist"].endswith("not under the data root")
    assert found["digits"].endswith("train, test")


def test_a_bad_cluster_file_hides_no_other(raykd: Raykd, tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.yaml").write_text("worker: 2\n")
    found = entries(raykd, "clusters")
    assert "did you mean 'workers'" in found["mine"]
    assert found["local"].startswith("2 workers")
