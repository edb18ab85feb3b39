"""AlexNet in one tower (Krizhevsky 2014, 1404.5997), and a form for small images."""

from torch import Tensor, nn

from raykd.models.initialisation import require_size

LARGE = 128  # from here on the original stem and dense layers; below, the CIFAR form


class AlexNet(nn.Module):
    """Five convolutions; ``divisor`` 2 halves every width (AlexNet-Half).

    At 224 pixels and 1000 classes 61,100,840 parameters, as published; at 32 pixels and ten classes
    2,472,266: small images reach one 256-wide vector and one linear layer.
    """

    def __init__(self, *, num_classes: int, channels: int, size: int, divisor: int = 1) -> None:
        """Build the form that suits ``size``.

        Raises:
            UsageError: ``size`` is below 32.
        """
        super().__init__()
        require_size("AlexNet", size, 32)
        large = size >= LARGE
        widths = [width // divisor for width in (64, 192, 384, 256, 256)]
        pool = nn.MaxPool2d(3, 2) if large else nn.MaxPool2d(2)
        self.features = nn.Sequential(
            nn.Conv2d(channels, widths[0], 11, stride=4, padding=2 if large else 5),
            nn.ReLU(),
            pool,
            nn.Conv2d(widths[0], widths[1], 5, padding=2),
            nn.ReLU(),
            pool,
            nn.Conv2d(widths[1], widths[2], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(widths[2], widths[3], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(widths[3], widths[4], 3, padding=1),
            nn.ReLU(),
            pool,
            nn.AdaptiveAvgPool2d(6 if large else 1),
            nn.Flatten(),
        )
        dense = 4096 // divisor
        self.hidden = (
            nn.Sequential(
                nn.Dropout(),
                nn.Linear(widths[4] * 36, dense),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(dense, dense),
                nn.ReLU(),
            )
            if large
            else nn.Identity()
        )
        self.linear = nn.Linear(dense if large else widths[4], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        logits: Tensor = self.linear(self.hidden(self.features(images)))
        return logits
