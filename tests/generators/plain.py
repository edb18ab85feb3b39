"""The DAFL generator as published: plain modules on NCHW tensors, the oracle of these tests."""

import torch.nn.functional as F
from torch import Tensor, nn


class PlainGenerator(nn.Module):
    """Same parameters, in the same order, as raykd's; every layer is a stock module."""

    def __init__(self, latent_dim: int, channels: int, size: int, width: int = 128) -> None:
        """Build with default initialisation."""
        super().__init__()
        self.size = size // 4
        self.width = width
        self.l1 = nn.Sequential(nn.Linear(latent_dim, width * self.size**2))
        self.conv_blocks0 = nn.Sequential(nn.BatchNorm2d(width))
        self.conv_blocks1 = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=1, padding=1),
            nn.BatchNorm2d(width, 0.8),
            nn.LeakyReLU(0.2),
        )
        self.conv_blocks2 = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, stride=1, padding=1),
            nn.BatchNorm2d(width // 2, 0.8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, channels, 3, stride=1, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return images [B, C, H, W]."""
        x = self.l1(z).view(z.shape[0], self.width, self.size, self.size)
        x = self.conv_blocks0(x)
        x = F.interpolate(x, scale_factor=2)
        x = self.conv_blocks1(x)
        x = F.interpolate(x, scale_factor=2)
        images: Tensor = self.conv_blocks2(x)
        return images
