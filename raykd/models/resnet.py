"""Residual networks for small images (He et al. 2015, 1512.03385).

The ImageNet family and the 6n+2 family; both start with a 3x3 convolution at full resolution and no
max-pooling. B batch, C classes, H W image.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.models.initialisation import he_initialise, require_size

Shortcut = Callable[[int, int, int], nn.Module]  # (inputs, outputs, stride)


class PaddedShortcut(nn.Module):
    """Option A of the paper: subsample, then pad the missing channels with zeros; no parameter."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Remember the stride and the channels to add, half before and half after."""
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        subsampled = x[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, self.before, self.after))


def projection_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Option B of the paper: a 1x1 convolution with BatchNorm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def _shortcut(make: Shortcut, inputs: int, outputs: int, stride: int) -> nn.Module:
    same = stride == 1 and inputs == outputs
    return nn.Identity() if same else make(inputs, outputs, stride)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut) -> None:
        """Build a block from ``inputs`` to ``width`` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(shortcut, inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, width, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, the last four times as wide."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut) -> None:
        """Build a block from ``inputs`` to ``4 * width`` channels."""
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(shortcut, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, 4 * width, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages ``layer1`` ... of residual blocks, global average, ``linear``.

    Stage i has ``depths[i]`` blocks of ``widths[i]`` channels; all but the first halve the image.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        size: int,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        shortcut: Shortcut,
    ) -> None:
        """Build the network.

        Raises:
            UsageError: ``size`` has no pixel left for every stage.
        """
        super().__init__()
        require_size("a residual network", size, 2 ** (len(widths) - 1))
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages: list[str] = []
        inputs = widths[0]
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(inputs, width, stride, shortcut))
                inputs = width * block.expansion
            self.stages.append(f"layer{index + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, num_classes)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        x = F.relu(self.bn1(self.conv1(images)))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def resnet(
    block: type[BasicBlock] | type[Bottleneck],
    depths: Sequence[int],
    *,
    num_classes: int,
    channels: int,
    size: int,
) -> ResNet:
    """ResNet-18, 34 or 50 for small images: widths 64 to 512, projection shortcuts.

    11,173,962 (18) and 21,282,122 (34) parameters for three channels and ten classes.
    """
    return ResNet(
        num_classes=num_classes,
        channels=channels,
        size=size,
        block=block,
        depths=depths,
        widths=(64, 128, 256, 512),
        shortcut=projection_shortcut,
    )


def cifar_resnet(depth: int, *, num_classes: int, channels: int, size: int) -> ResNet:
    """The 6n+2-layer networks of section 4.2: widths 16, 32, 64, parameter-free shortcuts.

    269,722 (20 layers) and 853,018 (56) parameters for three channels and ten classes.
    """
    return ResNet(
        num_classes=num_classes,
        channels=channels,
        size=size,
        block=BasicBlock,
        depths=((depth - 2) // 6,) * 3,
        widths=(16, 32, 64),
        shortcut=PaddedShortcut,
    )
