"""Constants that are not the teacher's are told without an image, before the first step and with the result."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import raykd
from raykd.data.datasets import data_spec, load_images
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.models import build_model


@pytest.fixture
def of_digits(tmp_path: Path) -> Path:
    """Weights with the BatchNorm statistics of digits."""
    spec = data_spec("digits")
    torch.manual_seed(0)
    network = build_model("lenet5_bn", num_classes=10, channels=1, size=32).train()
    for _ in range(4):
        for batch in evaluation_batches(load_images("digits", "train", spec, None), spec, World.alone(), 100):
            network(batch.images)
    save_file(network.state_dict(), tmp_path / "digits.safetensors")
    return tmp_path / "digits.safetensors"


@pytest.mark.parametrize(("constants", "wrong"), [([], False), (["data.mean=[0.0]", "data.std=[1.0]"], True)])
def test_a_run_tells_of_wrong_constants(
    tmp_path: Path, of_digits: Path, caplog: pytest.LogCaptureFixture, constants: list[str], wrong: bool
) -> None:
    own = f"teacher={{model: lenet5_bn, weights: {of_digits}}}"
    brief = ["schedule.steps=2", "schedule.report_every=2", "schedule.global_batch=64", "controls=[]"]
    small = ["method.generator_width=8", "method.latent_dim=8"]
    result = raykd.train("dafl_digits", overrides=[own, *constants, *brief, *small], out=tmp_path / "runs")
    told = [text for text in result.warnings or [] if text.startswith("constants: ")]
    assert len(told) == wrong
    assert all("; by those of digits it would be" in text and text in caplog.text for text in told)
