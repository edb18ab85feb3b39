"""DenseNet-BC (Huang et al. 2017, 1608.06993) with the blocks of its ImageNet networks and a 3x3 stem.

B batch, C classes, H W image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.models.initialisation import he_initialise, require_size

GROWTH = 32
BOTTLENECK = 4  # times the growth


class DenseLayer(nn.Module):
    """BN-ReLU-1x1, BN-ReLU-3x3; the output is concatenated to the input's channels."""

    def __init__(self, inputs: int) -> None:
        """Build a layer that adds ``GROWTH`` channels."""
        super().__init__()
        between = BOTTLENECK * GROWTH
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, between, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(between)
        self.conv2 = nn.Conv2d(between, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, inputs + GROWTH, H, W]."""
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return torch.cat([x, out], dim=1)


def _transition(inputs: int) -> nn.Sequential:
    """Halve channels and resolution."""
    convolution = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), convolution, nn.AvgPool2d(2))


class DenseNet(nn.Module):
    """Dense blocks with transitions between them, of ``depths`` layers.

    DenseNet-121 (6, 12, 24, 16) has 6,956,298 parameters for three channels and ten classes, 7,048,548 for a hundred:
    the widespread CIFAR form, whose stem has no BatchNorm.
    """

    def __init__(self, *, num_classes: int, channels: int, size: int, depths: Sequence[int]) -> None:
        """Build the network.

        Raises:
            UsageError: ``size`` has no pixel left for every block.
        """
        super().__init__()
        require_size("DenseNet", size, 2 ** (len(depths) - 1))
        inputs = 2 * GROWTH
        layers: list[nn.Module] = [nn.Conv2d(channels, inputs, 3, padding=1, bias=False)]
        for position, depth in enumerate(depths):
            if position:
                layers.append(_transition(inputs))
                inputs //= 2
            layers += [DenseLayer(inputs + GROWTH * index) for index in range(depth)]
            inputs += GROWTH * depth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU())
        self.linear = nn.Linear(inputs, num_classes)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        logits: Tensor = self.linear(self.features(images).mean(dim=(2, 3)))
        return logits
