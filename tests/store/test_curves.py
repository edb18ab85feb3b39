"""TensorBoard reads the curves, and a disk that takes no more is told."""

import io
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raykd.store.curves import CurveFile


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (40, 20)).save(content, "PNG")
    sheet = content.getvalue()
    curves = CurveFile(tmp_path / "tensorboard")
    for step in (2, 4):
        curves.append({"step": step, "loss/kd": 1 / step}, step, None if step == 2 else sheet)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("loss/kd")] == [(2, 0.5), (4, 0.25)]
    (shown,) = read.Images("samples")
    assert (shown.step, shown.width, shown.height, shown.encoded_image_string) == (4, 40, 20, sheet)


def test_a_disk_that_takes_no_curves_is_told() -> None:
    with pytest.raises(OSError, match="nowhere"):
        CurveFile(Path("/proc/nowhere")).append({"loss": 1.0}, 1, None)
