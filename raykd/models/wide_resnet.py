"""Wide residual networks WRN-depth-width (Zagoruyko & Komodakis 2016, 1605.07146)."""

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.errors import UsageError
from raykd.models.initialisation import he_initialise, require_size


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, around a shortcut of the raw input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Build a block; where widths differ, the shortcut convolves what the first ReLU gives."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        activated = F.relu(self.bn1(x))
        carried = x if self.shortcut is None else self.shortcut(activated)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + carried


class WideResNet(nn.Module):
    """Three groups of (depth - 4) / 6 blocks, widths 16, 32, 64 times ``width``.

    2,255,156 (40-2), 569,780 (40-1), 703,284 (16-2), 180,916 (16-1) parameters for 100 classes.
    """

    def __init__(self, *, num_classes: int, channels: int, size: int, depth: int, width: int) -> None:
        """Build the network.

        Raises:
            UsageError: ``depth`` is not 6n + 4 with n >= 1, ``width`` below 1 or ``size`` below 4.
        """
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise UsageError(
                f"wrn depth must be 6n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth}; "
                f"the nearest is {6 * max(1, round((depth - 4) / 6)) + 4}"
            )
        if width < 1:
            raise UsageError(f"wrn width must be at least 1, got {width}")
        require_size("a wide residual network", size, 4)
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential()
        for group, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
            for position in range(blocks):
                first = position == 0
                stride = 2 if first and group > 0 else 1
                self.groups.append(PreActivationBlock(inputs if first else outputs, outputs, stride))
        self.bn = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], num_classes)
        he_initialise(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        x = F.relu(self.bn(self.groups(self.conv1(images))))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
