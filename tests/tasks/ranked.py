"""Other images that a teacher has ranked, which several tests share."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raykd.data.datasets import data_spec, load_images
from raykd.models import build_model
from raykd.tasks.inspect import subject_of_file
from raykd.tasks.ood import rank
from tests.engine.other_images import made, other_images, workspace

COUNT = 60


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return ranking_place(tmp_path)


def ranking_place(tmp_path: Path) -> Path:
    """Make a teacher of digits, described in a file, and sixty other images."""
    made(tmp_path)
    for path in (tmp_path / "ours").iterdir():
        path.unlink()
    other_images(tmp_path, COUNT)
    weights = tmp_path / "teacher.safetensors"
    tensors, spec = load_file(weights), data_spec("digits")
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    network.load_state_dict(tensors)
    images = spec.normalise(load_images("ours", "train", spec, tmp_path).pixels.float() / 255)
    with torch.no_grad():  # an untrained network sees one class in all of them; this one several, not equally often
        list(network.parameters())[-1].sub_(0.97 * network(images).mean(0))
    save_file(network.state_dict(), weights)
    (tmp_path / "t.yaml").write_text(f"data: digits\nteacher: {{model: lenet5, weights: {weights}}}\n")
    return tmp_path


def ranked(place: Path, images: int | None = None, name: str = "index.parquet") -> Path:
    subject = subject_of_file(place / "t.yaml", ())
    assert subject is not None
    rank(subject, "ours", images, place / name, workspace(place))
    return place / name
