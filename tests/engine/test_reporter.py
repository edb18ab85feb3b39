"""What a run hands out is written, or told that it cannot be."""

from pathlib import Path

import pytest
import torch

from raykd.engine.reporter import LocalReporter
from raykd.errors import CorruptError
from raykd.store.checkpoint import (
    Checkpoint,
)
from raykd.store.run_directory import RunDirectory


def test_a_disk_that_does_not_take_the_products_is_told(tmp_path: Path) -> None:
    (tmp_path / "bank").write_text("a file where a folder should be")
    products = {"class_00000": {"w": torch.ones(1)}}
    checkpoint = Checkpoint(1, 1, {}, {}, products=products)
    with pytest.raises(CorruptError, match="bank is a file, and a folder belongs there"):
        LocalReporter(RunDirectory(tmp_path)).report(None, checkpoint)
    assert not (tmp_path / "checkpoints").exists()
