"""ResNeXt for small images (Xie et al. 2017, 1611.05431, section 5.3): three stages of grouped bottlenecks.

B batch, C classes, H W image.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.models.initialisation import he_initialise, require_size

STEM, STAGES = 64, 3
EXPANSION = 4


class GroupedBottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1 around a shortcut; ``cardinality`` groups of ``width`` channels."""

    def __init__(self, inputs: int, outputs: int, cardinality: int, width: int, stride: int) -> None:
        """Build a block from ``inputs`` to ``outputs`` channels."""
        super().__init__()
        between = cardinality * width
        self.conv1 = nn.Conv2d(inputs, between, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(between)
        self.conv2 = nn.Conv2d(between, between, 3, stride, 1, groups=cardinality, bias=False)
        self.bn2 = nn.BatchNorm2d(between)
        self.conv3 = nn.Conv2d(between, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNeXt(nn.Module):
    """``depth`` 9n+2 layers in stages at strides 1, 2 and 4.

    ResNeXt-29, 8x64d has 34,426,698 parameters for three channels and ten classes (34.4 M in the paper's table 7).
    """

    def __init__(self, *, num_classes: int, channels: int, size: int, depth: int, cardinality: int, width: int) -> None:
        """Build the network.

        Raises:
            UsageError: ``size`` is below 4.
        """
        super().__init__()
        require_size("ResNeXt", size, 2 ** (STAGES - 1))
        layers: list[nn.Module] = [nn.Conv2d(channels, STEM, 3, padding=1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU()]
        inputs = STEM
        for stage in range(STAGES):
            outputs = EXPANSION * STEM * 2**stage
            for position in range((depth - 2) // (3 * STAGES)):
                stride = 2 if stage and not position else 1
                layers.append(GroupedBottleneck(inputs, outputs, cardinality, width * 2**stage, stride))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, num_classes)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        logits: Tensor = self.linear(self.features(images).mean(dim=(2, 3)))
        return logits
