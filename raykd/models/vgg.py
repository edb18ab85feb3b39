"""VGG-11 (Simonyan & Zisserman 2014, 1409.1556) with BatchNorm and a single linear layer."""

from torch import Tensor, nn

from raykd.models.initialisation import he_initialise, require_size

GROUPS = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class Vgg11(nn.Module):
    """Five groups of 3x3 convolution, BatchNorm, ReLU; max-pooling between them, global average.

    The fourth pooling is left out below 64 pixels, so 32-pixel images end in 4x4 maps.
    """

    def __init__(self, *, num_classes: int, channels: int, size: int) -> None:
        """Build the network.

        Raises:
            UsageError: ``size`` is below 8.
        """
        super().__init__()
        require_size("VGG-11", size, 8)
        self.features = nn.Sequential()
        inputs = channels
        for group, widths in enumerate(GROUPS):
            for width in widths:
                self.features.extend([nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()])
                inputs = width
            if group < 3 or (group == 3 and size >= 64):
                self.features.append(nn.MaxPool2d(2))
        self.linear = nn.Linear(inputs, num_classes)
        he_initialise(self, linear_std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        logits: Tensor = self.linear(self.features(images).mean(dim=(2, 3)))
        return logits
