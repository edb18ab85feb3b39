"""LeNet-5 (LeCun et al. 1998) in the form of DAFL (1904.01186): ReLU and max-pooling."""

from torch import Tensor, nn

from raykd.errors import UsageError

SIZE = 32  # the third 5x5 convolution must meet a 5x5 map
FULL = (6, 16, 120, 84)
HALF = (3, 8, 60, 42)


class LeNet5(nn.Module):
    """Three 5x5 convolutions and two linear layers on 32-pixel images.

    Full widths give 61,706 parameters, half widths 15,738 (one channel, ten classes). ``features``
    gives the vector that DAFL penalises: 120 (or 60) ReLU'd activations, two linear layers before
    the logits.
    """

    feature_layer = "hidden"

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        size: int,
        widths: tuple[int, int, int, int] = FULL,
        batch_norm: bool = False,
    ) -> None:
        """Build the network; ``batch_norm`` puts one BatchNorm after every convolution.

        Raises:
            UsageError: ``size`` is not 32.
        """
        super().__init__()
        if size != SIZE:
            raise UsageError(
                f"LeNet-5 needs images of exactly {SIZE} x {SIZE} pixels, got {size} x {size}: set data.size={SIZE}, "
                "and data.pad=2 too where images of 28 are to be padded and not enlarged"
            )
        first, second, third, hidden = widths

        def convolution(inputs: int, outputs: int) -> list[nn.Module]:
            norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
            return [nn.Conv2d(inputs, outputs, 5, bias=not batch_norm), *norm, nn.ReLU()]

        self.features = nn.Sequential(
            *convolution(channels, first),
            nn.MaxPool2d(2),
            *convolution(first, second),
            nn.MaxPool2d(2),
            *convolution(second, third),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(third, hidden)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, 32, 32] to logits [B, C]."""
        logits: Tensor = self.linear(self.relu(self.hidden(self.features(images))))
        return logits
