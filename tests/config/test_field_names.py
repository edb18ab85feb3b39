"""A key that is no field is told where it belongs, and nothing that is not near is proposed."""

import pytest

from raykd.cluster.config import Cluster
from raykd.config.field_names import CLUSTER_FIELDS, field_hint

FIELDS = [
    "data", "data.name", "method", "method.temperature", "method.eviction", "method.generator_optim.lr", "bank",
    "student_optim", "student_optim.lr", "schedule", "schedule.steps", "schedule.global_batch",
]  # fmt: skip


def test_the_list_is_that_of_cluster_files() -> None:
    assert set(Cluster.model_fields) - {"name"} == CLUSTER_FIELDS


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("lr", "; did you mean 'student_optim.lr' or 'method.generator_optim.lr'?"),
        ("generator_optim.lr", "; did you mean 'method.generator_optim.lr' or 'student_optim.lr'?"),
        ("learning_rate", "; did you mean 'student_optim.lr' or 'method.generator_optim.lr'?"),
        ("steps", "; did you mean 'schedule.steps'?"),
        ("epochs", "; did you mean 'schedule.steps'? A step is a batch, not an epoch."),
        ("schedule.epochs", "; did you mean 'schedule.steps'? A step is a batch, not an epoch."),
        ("batch_size", "; did you mean 'schedule.global_batch'?"),
        ("method.temprature", "; did you mean 'method.temperature'?"),
        ("metod.temperature", "; did you mean 'method.temperature'?"),
        ("--schedule.steps", "; write 'schedule.steps', without dashes"),
        ("colour", ""),
        ("q" * 5000, ""),
    ],
)
def test_what_is_said_of_a_key(key: str, hint: str) -> None:
    assert field_hint(key, FIELDS) == hint


@pytest.mark.parametrize("key", ["precision", "runtime.precision", "cluster.workers", "storage", "runtime.bank"])
def test_what_belongs_to_machines_is_said_to(key: str) -> None:
    leaf = key.rpartition(".")[2]
    assert f"put `{leaf}: ...` into a cluster file (--cluster FILE)" in field_hint(key, FIELDS)
    assert "did you mean" not in field_hint(key, FIELDS)


def test_names_in_a_section_are_told_whole() -> None:
    assert field_hint("temprature", ["temperature"], "method.") == "; did you mean 'method.temperature'?"
