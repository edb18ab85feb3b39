"""Values that nobody means: each ends at once, in one line, with what is allowed."""

from pathlib import Path

import pytest

from raykd.cluster.config import Cluster
from raykd.cluster.workers import fitting_workers
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from tests.cli.conftest import Raykd, WriteRecipe


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("schedule.global_batch=10000000000", ["schedule.global_batch", "less than or equal to 1048576"]),
        ("schedule.global_batch=1e11", ["schedule.global_batch", "less than or equal to 1048576"]),
        ("schedule.steps=9223372036854775808", ["schedule.steps", "at most 2,147,483,647"]),
        ("data.size=1000000000", ["data.size", "less than or equal to 4096"]),
        ("seed=-1", ["seed", "greater than or equal to 0"]),
        ("seed=9223372036854775808", ["seed", "at most 2,147,483,647"]),
        ("student_optim.lr=.nan", ["student_optim.lr", "finite"]),
        ("student_optim.betas=[0.9, 1]", ["student_optim.betas.1", "less than 1"]),
        ('student.weights="' + "x" * 10_000 + '"', ["student.weights", "at most 4,096 characters"]),
        ('student.weights="\\e[31mred"', ["student.weights", "control characters", "'\\x1b'"]),
        ('student.weights="\\0"', ["student.weights", "control characters"]),
        ('student_optim.name="' + "x" * 10_000 + '"', ["student_optim: got the name 'xxx", "it is one of 'sgd'"]),
    ],
)
def test_a_value_out_of_reason(raykd: Raykd, pair: str, words: list[str]) -> None:
    wrong = raykd("train", "kd_digits", pair)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert [word for word in words if word not in wrong.stderr] == []
    assert wrong.stderr.count("\n") == 1
    assert len(wrong.stderr) < 1000


def test_nesterov_without_momentum(raykd: Raykd, tiny: WriteRecipe) -> None:
    wrong = raykd("train", tiny(student_optim={"name": "sgd", "lr": 0.1, "momentum": 0, "nesterov": True}))
    assert wrong.exit_code == 2
    assert "nesterov needs a momentum above 0" in wrong.stderr


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("x" * 300, "300 letters, and 255 bytes are allowed"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("", "is empty"),
    ],
)
def test_a_store_that_no_disk_takes(raykd: Raykd, out: str, says: str) -> None:
    wrong = raykd("train", "kd_digits", "--out", out)
    assert wrong.exit_code == 2
    assert says in " ".join(wrong.stderr.split())


def test_more_workers_than_there_are_machines(raykd: Raykd) -> None:
    Path("many.yaml").write_text("workers: 100000000\n")
    wrong = raykd("train", "kd_digits", "--cluster", "many.yaml")
    assert wrong.exit_code == 2
    assert "at most 100,000 workers" in wrong.stderr


def test_numbers_of_workers_are_found_without_counting_up_to_the_batch() -> None:
    experiment = resolve(load_recipe("supervised_digits_lenet5", ["schedule.global_batch=1048576"]))
    fitting = fitting_workers(experiment, Cluster(name="wide", workers=(1, 100_000)))
    assert fitting == [2**power for power in range(17)]


def test_want_of_memory_is_no_fault_of_the_program(
    raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("raykd.api.train_seeds", fail)
    short = raykd("train", tiny())
    assert short.exit_code == 3
    assert "error: there is not enough memory: lower schedule.global_batch" in short.stderr
