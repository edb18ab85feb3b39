"""GoogLeNet (Szegedy et al. 2015, 1409.4842) for small images, with BatchNorm and 5x5 filters as two 3x3 ones.

The form in which CIFAR implementations, Tf-KD's among them, have it: a 3x3 stem, no auxiliary classifiers.
B batch, C classes, H W image.
"""

import torch
from torch import Tensor, nn

from raykd.models.initialisation import he_initialise, require_size

STEM = 192
# Table 1 of the paper: 1x1; 3x3 reduced and full; 5x5 reduced and full; pooled. None: a max-pooling.
MODULES: tuple[tuple[int, int, int, int, int, int] | None, ...] = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


def _convolution(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()]


class Inception(nn.Module):
    """Filters of four sizes side by side."""

    def __init__(self, inputs: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pooled: int) -> None:
        """Build a module of ``one + three + five + pooled`` output channels."""
        super().__init__()
        self.outputs = one + three + five + pooled
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*_convolution(inputs, one, 1)),
                nn.Sequential(*_convolution(inputs, reduce3, 1), *_convolution(reduce3, three, 3)),
                nn.Sequential(
                    *_convolution(inputs, reduce5, 1), *_convolution(reduce5, five, 3), *_convolution(five, five, 3)
                ),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *_convolution(inputs, pooled, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class GoogLeNet(nn.Module):
    """Nine inception modules at strides 1, 2 and 4: 6,166,250 parameters for three channels and ten classes."""

    def __init__(self, *, num_classes: int, channels: int, size: int) -> None:
        """Build the network.

        Raises:
            UsageError: ``size`` is below 4.
        """
        super().__init__()
        require_size("GoogLeNet", size, 4)
        layers, inputs = _convolution(channels, STEM, 3), STEM
        for widths in MODULES:
            if widths is None:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
                continue
            module = Inception(inputs, *widths)
            layers.append(module)
            inputs = module.outputs
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, num_classes)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        logits: Tensor = self.linear(self.features(images).mean(dim=(2, 3)))
        return logits
