"""The two-hidden-layer perceptrons of Hinton, Vinyals & Dean 2015 (1503.02531, section 3)."""

from torch import Tensor, nn

from raykd.models.initialisation import require_size


class HintonNet(nn.Module):
    """Flattened pixels - hidden - hidden - classes, with ReLU.

    2,395,210 parameters at ``hidden`` 1200, 1,276,810 at 800 (28-pixel grey images, ten classes).
    """

    def __init__(self, *, num_classes: int, channels: int, size: int, hidden: int) -> None:
        """Build the network for images of ``channels * size * size`` values.

        Raises:
            UsageError: ``size`` is below 1.
        """
        super().__init__()
        require_size("HintonNet", size, 1)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size * size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.linear = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        logits: Tensor = self.linear(self.layers(images))
        return logits
