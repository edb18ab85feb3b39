"""The generator of MosaicKD (Fang et al., NeurIPS 2021, arXiv 2110.15094).

Shapes: B batch, Z latent, C channels, H = W = size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raykd.errors import UsageError
from raykd.generators.output import STANDARDISED, Output
from raykd.generators.upsampling import activated, channels_last, thin_conv3x3, upsampled_conv3x3


class MosaicGenerator(nn.Module):
    """Noise to images: linear, BatchNorm, then twice (upsample, conv, BatchNorm, LeakyReLU), conv, sigmoid.

    The sigmoid makes images in [0, 1], as real ones are; they leave normalised for the teacher, by mean and std,
    or where nobody knows these with a learned output. A width of 256, a
    latent of 100 and 3 channels of 32 pixels give the published 2,026,051 parameters.

    It is always in training mode where it is published: batch statistics are used in train and eval mode alike, and
    there are no running ones. With several workers they are those of a worker's own batch.
    """

    scale: Tensor
    shift: Tensor
    output_centre: Tensor | None
    output_scale: Tensor | None

    def __init__(
        self,
        latent_dim: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        width: int = 256,
        *,
        output: Output = STANDARDISED,
    ) -> None:
        """Build with PyTorch's default initialisation, as published.

        Args:
            latent_dim: Z.
            size: H and W of the images, divisible by 4.
            mean: of images in [0, 1], one number per channel, so C in all.
            std: as ``mean``.
            width: of the first feature maps, divisible by 4; a half and a quarter of them follow.
            output: what follows; its range of pixels counts for nothing, since that of mean and std is kept.

        Raises:
            UsageError: if the size or the width does not divide.
        """
        super().__init__()
        if size % 4:
            raise UsageError(f"mosaickd makes images whose size is divisible by 4, not {size}")
        if width % 4:
            raise UsageError(f"mosaickd needs a generator width divisible by 4, not {width}")
        self.first_size = size // 4
        self.project = nn.Linear(latent_dim, width * self.first_size**2)
        self.norm0 = nn.BatchNorm2d(width, track_running_stats=False)
        self.conv1 = nn.Conv2d(width, width // 2, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width // 2, track_running_stats=False)
        self.conv2 = nn.Conv2d(width // 2, width // 4, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width // 4, track_running_stats=False)
        self.conv3 = nn.Conv2d(width // 4, len(mean), 3, padding=1)
        scale = 1 / torch.tensor(std).view(-1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(-1, 1, 1) * scale, persistent=False)
        self.output = output
        for name in ("output_centre", "output_scale"):
            self.register_parameter(name, nn.Parameter(torch.zeros(len(mean), 1, 1)) if output.learns else None)

    def forward(self, z: Tensor) -> Tensor:
        """Return images [B, C, H, W] in normalised space for standard normal ``z`` [B, Z]."""
        x = self.project(z).unflatten(1, (-1, self.first_size, self.first_size))
        x = channels_last(self.norm0(x))
        x = activated(self.norm1, upsampled_conv3x3(x, self.conv1.weight))
        x = activated(self.norm2, upsampled_conv3x3(x, self.conv2.weight))
        # The float32 bias brings the end of the network back from bfloat16 under autocast.
        x = thin_conv3x3(x, self.conv3.weight) + self.conv3.bias  # type: ignore[operator]
        images = x.sigmoid().permute(0, 3, 1, 2) * self.scale + self.shift
        return self.output(images, self.output_centre, self.output_scale)
