"""ShuffleNetV2 (Ma et al. 2018, 1807.11164) at full resolution: its stem neither strides nor pools.

B batch, C classes, H W image.
"""

import torch
from torch import Tensor, nn

from raykd.models.initialisation import he_initialise, require_size

# Table 5 of the paper at 1x: blocks and channels of the stages, after 24 channels and before 1024.
STAGES = ((4, 116), (8, 232), (4, 464))
STEM, LAST = 24, 1024


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [convolution, nn.BatchNorm2d(channels)]


def _shuffled(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels."""
    batch, channels, height, width = x.shape
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class Unit(nn.Module):
    """One half of the channels passes, the other is filtered; a unit that strides filters both (figure 3 c, d)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Build a unit; without a stride, inputs and outputs are equal."""
        super().__init__()
        half = outputs // 2
        self.strides = stride > 1
        entering = inputs if self.strides else half
        self.passing = nn.Sequential(*_depthwise(inputs, stride), *_pointwise(inputs, half)) if self.strides else None
        self.filtering = nn.Sequential(*_pointwise(entering, half), *_depthwise(half, stride), *_pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        if self.passing is not None:
            return _shuffled(torch.cat([self.passing(x), self.filtering(x)], dim=1))
        passing, filtered = x.chunk(2, dim=1)
        return _shuffled(torch.cat([passing, self.filtering(filtered)], dim=1))


class ShuffleNetV2(nn.Module):
    """The paper's 1x network at stride 8 instead of 32: 2,278,604 parameters for 1000 classes, as published with it."""

    def __init__(self, *, num_classes: int, channels: int, size: int) -> None:
        """Build the network.

        Raises:
            UsageError: ``size`` is below 8.
        """
        super().__init__()
        require_size("ShuffleNetV2", size, 8)
        stem = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(STEM), nn.ReLU()]
        inputs = STEM
        for blocks, outputs in STAGES:
            layers += [Unit(inputs, outputs, 2), *(Unit(outputs, outputs, 1) for _ in range(blocks - 1))]
            inputs = outputs
        self.features = nn.Sequential(*layers, *_pointwise(inputs, LAST))
        self.linear = nn.Linear(LAST, num_classes)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        logits: Tensor = self.linear(self.features(images).mean(dim=(2, 3)))
        return logits
