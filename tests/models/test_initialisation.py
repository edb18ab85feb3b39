"""Weights as a network begins with them."""

import pytest
import torch
from torch import nn

from raykd.models import build_model


@pytest.mark.parametrize("name", ["resnet18", "wrn_16_1", "vgg11", "mobilenetv2"])
def test_convolutions_start_as_he_prescribes(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, num_classes=10, channels=3, size=32)
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    widest = max(weights, key=torch.numel)
    outputs, _, height, width = widest.shape
    assert widest.std().item() == pytest.approx((2 / (outputs * height * width)) ** 0.5, rel=0.03)
