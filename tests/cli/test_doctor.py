"""What this machine has, and what is broken; what is disturbed, and what is told of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from raykd.distributed.host import HostReport
from raykd.tasks.certificate import Certificate, Event
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chaos", "dafl_digit"], "unknown recipe 'dafl_digit'; did you mean 'dafl_digits'?"),
        (["--chaos", "digits", "schedule.steps=3"], "a table has its own budget: leave out KEY=VALUE"),
        (["--chaos", "kd_digits", "--cluster", "gpu_cluster"], "would kill workers and nodes that others use: give a"),
        (["--chaos", "kd_digits", "--nodes", "1"], "--nodes 1: one is lost while others are left, so give 2 or more"),
        (["--nodes", "2"], "--nodes goes with --chaos RECIPE"),
        (["--chaos", "kd_digits", "--faults", "0"], "0 is not in the range x>=1"),
        (["schedule.steps=3"], "KEY=VALUE goes with --chaos RECIPE"),
    ],
)
def test_what_cannot_be_disturbed_is_refused(raykd: Raykd, words: list[str], said: str) -> None:
    done = raykd("doctor", *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_both_searches_of_a_proof_share_no_study(raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    certified: list[Any] = []

    def certify(given: list[str], folder: Path, **options: Any) -> Certificate:
        certified.append(given[0])
        weights = {"equal": 1, "different": [], "in_one_store": [], "not_comparable": []}
        return Certificate(given, 0, [], {}, 1, {}, weights, [])

    monkeypatch.setattr("raykd.tasks.chaos.certify", certify)
    Path("shared.yaml").write_text('{"study": "journal:trials.log"}')
    where = ["--cluster", "shared.yaml"]
    done = raykd("doctor", "--chaos", "student_architecture", *where)
    assert (done.exit_code, certified) == (2, [])
    assert "cluster 'shared': leave out `study` for the proof" in done.stderr
    # A training keeps no study, and the file that is written for nodes holds none.
    assert raykd("doctor", "--chaos", "kd_digits", *where).exit_code == 0
    assert raykd("doctor", "--chaos", "student_architecture", "--nodes", "2", *where).exit_code == 0
    assert certified == ["train", "tune"]


def test_nodes_are_started_for_the_workers_of_a_cluster(raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def certify(given: list[str], folder: Path, **options: Any) -> Certificate:
        place, count = options["nodes"]
        seen.append((given, place.worker_range, count, options["in_order"]))
        weights = {"equal": 1, "different": [], "in_one_store": [], "not_comparable": ["kd-s0/student.safetensors"]}
        return Certificate(given, 0, [], {}, 1, {}, weights, [])

    monkeypatch.setattr("raykd.tasks.chaos.certify", certify)
    Path("some.yaml").write_text('{"workers": [2, 4]}')
    done = raykd("doctor", "--chaos", "kd_digits", "--nodes", "3")
    assert done.exit_code == 0, done.stderr
    assert "not to be compared (trained by another number of workers for a time): kd-s0/student" in done.stdout
    raykd("doctor", "--chaos", "kd_digits", "--nodes", "2", "--cluster", "some.yaml")
    raykd("doctor", "--chaos", "student_architecture", "--nodes", "2", "--cluster", "some.yaml")
    raykd("doctor", "--chaos", "student_architecture", "--nodes", "2")
    kd, space = ["train", "kd_digits"], ["tune", "student_architecture"]
    # Of trials of one worker, two nodes have room for two; of trials of four, for one.
    assert seen == [(kd, (3, 3), 3, True), (kd, (2, 4), 2, True), (space, (2, 4), 2, True), (space, (1, 1), 2, False)]


ONE_AT_A_TIME = ["--cluster", "one.yaml"]


@pytest.mark.parametrize(
    ("name", "overrides", "command", "in_order"),
    [
        ("kd_digits", ["seed=3"], ["train", "kd_digits", "seed=3"], True),
        ("digits", [], ["table", "digits", "--quick"], True),
        ("student_architecture", ["seed=3"], ["tune", "student_architecture", "seed=3"], False),
        ("student_architecture", ONE_AT_A_TIME, ["tune", "student_architecture", *ONE_AT_A_TIME], True),
    ],
)
def test_a_recipe_a_table_or_a_space_is_disturbed(
    raykd: Raykd, monkeypatch: pytest.MonkeyPatch, name: str, overrides: list[str], command: list[str], in_order: bool
) -> None:
    seen: dict[str, Any] = {}
    Path("one.yaml").write_text('{"cpus_per_worker": 4, "storage": "s3://bucket/runs"}')
    monkeypatch.setattr("os.cpu_count", lambda: 4)

    def certify(given: list[str], folder: Path, **options: Any) -> Certificate:
        seen.update(options, command=given, folder=folder)
        event = Event("kill", "driver", "kd-s0", 7, 5, 2, 3.14, -9)
        weights = {"equal": 1, "different": ["kd-s0/student.safetensors"], "in_one_store": [], "not_comparable": []}
        return Certificate(given, 0, [event], {"loss of a node": "one"}, 2, {"undisturbed": 1.0}, weights, ["odd"])

    monkeypatch.setattr("raykd.tasks.chaos.certify", certify)
    done = raykd("doctor", "--chaos", name, *overrides, "--faults", "1")
    assert done.exit_code == 1
    assert (seen["command"], seen["workers"], seen["faults"]) == (command, command[0] != "train", 1)
    store = "s3://bucket/runs/chaos" if overrides == ONE_AT_A_TIME else None
    assert (seen["in_order"], seen["store"], seen["folder"]) == (in_order, store, Path("chaos"))
    for words in ("kill", "driver", "3.1", "-9", "left out: loss of a node: one", "different: kd-s0/stu", "NOT as und"):
        assert words in done.stdout
