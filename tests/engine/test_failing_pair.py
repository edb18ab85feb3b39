"""What one of two workers cannot do ends both with the same error, and neither waits for the other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.artifacts.bank import write_products
from raykd.engine.sentinel import find_warnings
from raykd.store.checkpoint import latest_checkpoint
from raykd.store.run_directory import RunDirectory
from tests.worker_pair import run_two_workers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two workers have failed."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "run").mkdir()
    for rank in range(2):
        (folder / f"machine-{rank}" / "bank").mkdir(parents=True)
    write_products(RunDirectory(folder / "machine-0"), {"class_00000": {"w": torch.ones(1)}})
    run_two_workers("tests.engine.failing_pair", folder)
    return folder


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("calibrate", "UsageError", "fewer than 2 images of 1 of 4 classes: c (1)"),
        ("report", "CorruptError", "bank is a file, and a folder belongs there"),
        ("resume", "CorruptError", "no whole checkpoint in"),
        ("lock", "InProgress", "is in progress in another process"),
        ("freeze", "UsageError", "absent-s0"),
        ("close_bank", "CorruptError", "class_00000.safetensors is missing"),
    ],
)
def test_both_workers_raise_the_same_error(folder: Path, case: str, error: str, message: str) -> None:
    workers: list[dict[str, Any]] = [json.loads((folder / f"{rank}.json").read_text())[case] for rank in range(2)]
    assert [worker["error"] for worker in workers] == [error] * 2
    assert workers[0]["message"] == workers[1]["message"]
    assert message in workers[0]["message"]


def test_a_worker_for_which_the_other_waits_is_named(folder: Path) -> None:
    first, then = (json.loads((folder / f"{rank}.json").read_text())["lag"]["result"] for rank in range(2))
    assert first == then, "measured alike on both"
    row, before, _, told = first
    assert row["waiting/least_rank"] == 1.0
    assert row["waiting/others"] > 60 > 20 > row["waiting/least"]
    assert find_warnings(row)[0].startswith("straggler: worker 1 computes ")
    assert before is None, "one report may be chance"
    assert told.startswith("worker 1 computes ")


def test_a_report_that_failed_leaves_the_checkpoint_before(folder: Path) -> None:
    latest = latest_checkpoint(folder / "run" / "checkpoints")
    assert latest is not None
    assert latest.name == "step_0000001"
    assert RunDirectory(folder / "run").status()["step"] == 1
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 1
