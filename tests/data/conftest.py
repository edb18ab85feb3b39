"""A data root with one small set."""

import json
from pathlib import Path

import numpy as np
import pytest

from raykd.data import parquet

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with one set of 12 RGB images of 8x8, of 3 classes, train only."""
    metadata = {
        "name": "made", "split": "train", "count": "12", "shape": "[8, 8, 3]",
        "encoding": parquet.RAW, "classes": json.dumps(["x", "y", "z"]),
    }  # fmt: skip
    records = [(pixels.tobytes(), row % 3) for row, pixels in enumerate(PIXELS)]
    parquet.write(tmp_path / "made", "train", records, metadata)
    return tmp_path
