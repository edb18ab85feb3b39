"""The generator of DAFL (Chen et al., ICCV 2019, arXiv 1904.01186), a DCGAN.

Shapes: B batch, Z latent, C channels, H = W = size.
"""

import torch
from torch import Tensor, nn

from raykd.errors import UsageError
from raykd.generators.output import STANDARDISED, Output
from raykd.generators.upsampling import activated, channels_last, thin_conv3x3, upsampled_conv3x3

_BODY_EPS = 0.8
"""Of the two inner BatchNorms, as in the authors' code (meant as a momentum, passed as eps)."""


class Dcgan(nn.Module):
    """Noise to images: linear, BatchNorm, then twice (upsample, conv, BatchNorm, LeakyReLU), conv.

    The last BatchNorm has no weights, so every channel of every batch has mean 0 and variance 1:
    the images are already in the *normalised* input space of the teacher. Another ``output`` than
    the published one makes other images of these.

    The parameters are those of the published module, in its order and shapes (copy its state dict
    one by one, without the BatchNorm buffers). The convolutions are computed by
    `raykd.generators.upsampling`, on channels-last activations.

    *BatchNorm.* The published generator is never put into eval mode, so its running statistics are
    never read. Here there are none: batch statistics are used in train and eval mode alike.
    With several workers they are the statistics of a worker's own batch.

    *Dead biases.* ``conv1.bias`` and ``conv2.bias`` precede a BatchNorm, which removes them, so
    their gradient is exactly zero. They are kept for the sake of the published parameters and
    checkpoints but not added; autograd reports no gradient for them, which an optimizer that wants
    one must read as zeros.
    """

    centre: Tensor | None
    scale: Tensor | None

    def __init__(
        self, latent_dim: int, channels: int, size: int, width: int = 128, output: Output = STANDARDISED
    ) -> None:
        """Build with PyTorch's default initialisation, as published.

        Args:
            latent_dim: Z.
            channels: C of the images.
            size: H and W of the images, divisible by 4.
            width: channels inside, even; half of them in the last block.
            output: what follows the last convolution.

        Raises:
            UsageError: if the size or the width does not divide.
        """
        super().__init__()
        if size % 4:
            raise UsageError(f"dcgan makes images whose size is divisible by 4, not {size}")
        if width % 2:
            raise UsageError(f"dcgan needs an even width, not {width}")
        self.latent_dim = latent_dim
        self.first_size = size // 4
        self.project = nn.Linear(latent_dim, width * self.first_size**2)
        self.norm0 = nn.BatchNorm2d(width, track_running_stats=False)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width, _BODY_EPS, track_running_stats=False)
        self.conv2 = nn.Conv2d(width, width // 2, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width // 2, _BODY_EPS, track_running_stats=False)
        self.conv3 = nn.Conv2d(width // 2, channels, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(channels, affine=False, track_running_stats=False)
        self.output = output
        for name in ("centre", "scale"):
            self.register_parameter(name, nn.Parameter(torch.zeros(channels, 1, 1)) if output.learns else None)

    def forward(self, z: Tensor) -> Tensor:
        """Return images [B, C, H, W] in normalised space for standard normal ``z`` [B, Z].

        Call it with at least two rows where possible: the statistics are those of the batch.
        """
        x = self.project(z).unflatten(1, (-1, self.first_size, self.first_size))
        x = channels_last(self.norm0(x))
        x = upsampled_conv3x3(x, self.conv1.weight)
        x = activated(self.norm1, x)
        x = upsampled_conv3x3(x, self.conv2.weight)
        x = activated(self.norm2, x)
        # The float32 bias brings the end of the network back from bfloat16 under autocast.
        x = thin_conv3x3(x, self.conv3.weight) + self.conv3.bias  # type: ignore[operator]
        return self.output(self.norm3(x.tanh().permute(0, 3, 1, 2)), self.centre, self.scale)
