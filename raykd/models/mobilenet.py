"""MobileNetV2 (Sandler et al. 2018, 1801.04381) without its first two reductions of size."""

from torch import Tensor, nn

from raykd.models.initialisation import he_initialise, require_size

# Table 2 of the paper: expansion, channels, blocks, stride of the first block (1 at 24 channels,
# where the paper has 2: that and the stem's stride are the reductions left out).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    ]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """Build a block; it is residual where neither width nor resolution changes."""
        super().__init__()
        hidden = inputs * expansion
        expand = _convolution(inputs, hidden) if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            *_convolution(hidden, hidden, 3, stride, groups=hidden),
            *_convolution(hidden, outputs)[:2],
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """The paper's network (parameters included) at stride 8 instead of 32."""

    def __init__(self, *, num_classes: int, channels: int, size: int) -> None:
        """Build the network.

        Raises:
            UsageError: ``size`` is below 8.
        """
        super().__init__()
        require_size("MobileNetV2", size, 8)
        layers = _convolution(channels, 32, 3)
        inputs = 32
        for expansion, outputs, blocks, first_stride in STAGES:
            for position in range(blocks):
                stride = first_stride if position == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, stride, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, *_convolution(inputs, LAST))
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(LAST, num_classes)
        he_initialise(self, linear_std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, C]."""
        logits: Tensor = self.linear(self.dropout(self.features(images).mean(dim=(2, 3))))
        return logits
