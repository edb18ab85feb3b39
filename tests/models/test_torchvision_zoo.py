"""Architectures of torchvision."""

import torch

from raykd.models import build_model


def test_torchvision_models_are_reached_by_name() -> None:
    network = build_model("torchvision/mobilenet_v3_small", num_classes=4, channels=3, size=32)
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    vision = build_model("torchvision/vit_b_32", num_classes=4, channels=3, size=32)
    assert vision.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
