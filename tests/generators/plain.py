"""The generators of DAFL and LS-GDFD as published: plain modules on NCHW tensors, the oracle of these tests."""

from collections.abc import Callable

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


class PlainLsgdfd(nn.Module):
    """LS-GDFD's generator; every layer is a stock module."""

    def __init__(self, latent_dim: int, channels: int, size: int, width: int = 128, upsamplings: int = 2) -> None:
        """Build with default initialisation."""
        super().__init__()
        self.first = (width, size >> upsamplings, size >> upsamplings)
        self.dense = nn.Linear(latent_dim, width * self.first[1] * self.first[2], bias=False)
        self.start = nn.Sequential(nn.BatchNorm2d(width, 1e-5), nn.LeakyReLU(0.2))
        blocks, before = [], width
        for i in range(upsamplings):
            after = width // (i + 1)
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
            blocks += [nn.UpsamplingNearest2d(scale_factor=2), conv, nn.BatchNorm2d(after, 0.8), nn.LeakyReLU(0.2)]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.end = nn.Sequential(nn.Conv2d(before, channels, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(channels, 0.8))
        self.end[2].bias.requires_grad_(False)  # it scales but does not centre

    def forward(self, z: Tensor) -> Tensor:
        """Return images [B, C, H, W]."""
        images: Tensor = self.end(self.blocks(self.start(self.dense(z).unflatten(1, self.first))))
        return images


def as_member(plain: nn.Module, value: Callable[[Tensor], Tensor | None] = lambda tensor: tensor) -> dict[str, Tensor]:
    """``value`` of the tensors of a plain generator, under the names that a bank gives them.

    Left out are those that a bank does not have: counters, and biases that change nothing or are constant.
    """
    members: dict[str, Tensor] = {}
    kinds: dict[str, type[nn.Module]] = {"project": nn.Linear, "conv": nn.Conv2d, "norm": nn.BatchNorm2d}
    for kind, stock in kinds.items():
        found = [module for module in plain.modules() if isinstance(module, stock)]
        for i, module in enumerate(found):
            layer = {"project": "project", "conv": f"conv{i + 1}", "norm": f"norm{i}"}[kind]
            last = i == len(found) - 1
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                dead = name == "bias" and ((kind == "conv" and not last) or (kind == "norm" and last))
                result = None if dead or tensor.ndim == 0 else value(tensor)
                if result is not None:
                    members[f"{layer}.{name}"] = result
    return members
