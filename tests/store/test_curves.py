"""TensorBoard reads the curves, and a disk that takes no more is told."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raykd.store.curves import CurveFile


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    curves = CurveFile(tmp_path / "tensorboard")
    for step in (2, 4):
        curves.append({"step": step, "loss/kd": 1 / step}, step)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("loss/kd")] == [(2, 0.5), (4, 0.25)]


def test_a_disk_that_takes_no_curves_is_told() -> None:
    with pytest.raises(OSError, match="nowhere"):
        CurveFile(Path("/proc/nowhere")).append({"loss": 1.0}, 1)
