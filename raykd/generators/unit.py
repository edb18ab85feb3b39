"""A generator that ends in a sigmoid, so that it makes images in [0, 1]: of MosaicKD and of the pool's methods.

MosaicKD: Fang et al., NeurIPS 2021, arXiv 2110.15094. The pool: CMI (Fang et al., IJCAI 2021, arXiv 2105.08584) and
Fast-DFKD (Fang et al., AAAI 2022, arXiv 2112.06253).

Shapes: B batch, Z latent, C channels, H = W = size.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from raykd.errors import UsageError
from raykd.generators.output import STANDARDISED, Output
from raykd.generators.upsampling import activated, channels_last, thin_conv3x3, upsampled_conv3x3

_NORMAL_STD = 0.02


class UnitGenerator(nn.Module):
    """Noise to images: linear, BatchNorm, then N times (upsample, conv, BatchNorm, LeakyReLU), conv, sigmoid.

    The sigmoid makes images in [0, 1], as real ones are; they leave normalised for the teacher, by mean and std,
    or where nobody knows these with a learned output. With maps of 256, 128, 64, a latent of 100 and 3 channels of 32
    pixels it has the 2,026,051 parameters of MosaicKD's, with 128, 128, 64 and a latent of 256 the 2,328,899 of CMI's
    and Fast-DFKD's.

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
        maps: Sequence[int] = (256, 128, 64),
        *,
        output: Output = STANDARDISED,
    ) -> None:
        """Build with PyTorch's default initialisation, as published.

        Args:
            latent_dim: Z.
            size: H and W of the images, divisible by 2^N.
            mean: of images in [0, 1], one number per channel, so C in all.
            std: as ``mean``.
            maps: feature maps before the first upsampling and after each, so N + 1 numbers.
            output: what follows; its range of pixels counts for nothing, since that of mean and std is kept.

        Raises:
            UsageError: if the size does not divide.
        """
        super().__init__()
        parts = 1 << (len(maps) - 1)
        if size % parts:
            raise UsageError(
                f"a generator with {len(maps) - 1} upsamplings makes images whose size is divisible by {parts}, not "
                f"{size}"
            )
        self.first_size = size // parts
        self.project = nn.Linear(latent_dim, maps[0] * self.first_size**2)
        self.norm0 = nn.BatchNorm2d(maps[0], track_running_stats=False)
        for i, (before, after) in enumerate(pairwise(maps), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(before, after, 3, padding=1, bias=False))
            self.add_module(f"norm{i}", nn.BatchNorm2d(after, track_running_stats=False))
        self.upsamplings = len(maps) - 1
        self.add_module(f"conv{len(maps)}", nn.Conv2d(maps[-1], len(mean), 3, padding=1))
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
        for i in range(1, self.upsamplings + 1):
            convolution, norm = self.get_submodule(f"conv{i}"), self.get_submodule(f"norm{i}")
            x = activated(norm, upsampled_conv3x3(x, convolution.get_parameter("weight")))
        # The float32 bias brings the end of the network back from bfloat16 under autocast.
        last = self.get_submodule(f"conv{self.upsamplings + 1}")
        x = thin_conv3x3(x, last.get_parameter("weight")) + last.get_parameter("bias")
        images = x.sigmoid().permute(0, 3, 1, 2) * self.scale + self.shift
        return self.output(images, self.output_centre, self.output_scale)


def initialise(network: nn.Module, how: Literal["default", "normal"], seed: int) -> None:
    """Draw a network's parameters anew, as torch does by default or the weights of DCGAN's way: N(0, 0.02).

    The scales of BatchNorms are then N(1, 0.02), all biases 0 (Radford et al. 2016, arXiv 1511.06434).
    """
    device = next(network.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                layer.reset_parameters()
                if how == "normal":
                    nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), _NORMAL_STD)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
