"""What this machine has, and what is broken."""

import json

import pytest

from raykd.distributed.host import HostReport
from tests.cli.conftest import Raykd


@pytest.fixture(autouse=True)
def arithmetic_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    report = HostReport(threads=1, allocator="default", matmul="onednn", matmul_error=1e-7)
    monkeypatch.setattr("raykd.tasks.doctor.prepare_host", lambda: report)


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
