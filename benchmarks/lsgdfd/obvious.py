"""The step as one would write it down: a list of plain generators, hooks, and a loop over the classes.

K generators of b images each, C channels, H = W = size.
"""

import torch
import torch.nn.functional as F
from lsgdfd.cases import CHANNELS, L2_WEIGHT, LATENT_DIM, LR, MOMENT_WEIGHT, SEED, SIZE, TV_WEIGHT, WIDTH
from torch import Tensor, nn

from raykd import losses
from raykd.distributed.world import mix
from raykd.generators.architecture import GeneratorConfig
from raykd.generators.bank import GeneratorBank
from raykd.methods.base import ClassMoments
from raykd.methods.members import LATENTS


class PlainGenerator(nn.Module):
    """LS-GDFD's generator of stock modules on NCHW maps; its tensors are named as a bank's."""

    def __init__(self) -> None:
        """Build with default initialisation."""
        super().__init__()
        self.first = SIZE // 4
        self.project = nn.Linear(LATENT_DIM, WIDTH * self.first**2, bias=False)
        self.norm0 = nn.BatchNorm2d(WIDTH)
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(WIDTH, eps=0.8)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(WIDTH // 2, eps=0.8)
        self.conv3 = nn.Conv2d(WIDTH // 2, CHANNELS, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(CHANNELS, eps=0.8)
        self.norm3.bias.requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [b, Z] to images [b, C, H, W]."""
        x = self.project(z).view(len(z), WIDTH, self.first, self.first)
        x = F.leaky_relu(self.norm0(x), 0.2)
        x = F.leaky_relu(self.norm1(self.conv1(F.interpolate(x, scale_factor=2))), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(F.interpolate(x, scale_factor=2))), 0.2)
        images: Tensor = self.norm3(self.conv3(x).tanh())
        return images


class ObviousStep:
    """Call it to take a step; it returns the means of the terms."""

    def __init__(
        self,
        members: int,
        images: int,
        teacher: nn.Module,
        wanted: ClassMoments,
        split: bool = False,
        device: str = "cpu",
    ) -> None:
        """Start from the weights that a bank of the same seed has; the teacher is in eval mode, not frozen."""
        bank = GeneratorBank(
            range(members), GeneratorConfig(latent_dim=LATENT_DIM, width=WIDTH), channels=CHANNELS, size=SIZE
        )
        bank.initialise(SEED)
        self.images, self.teacher, self.split, self.device = images, teacher.eval().to(device), split, device
        self.wanted = [(mean.to(device), variance.to(device)) for mean, variance in wanted]
        self.generators = [PlainGenerator() for _ in range(members)]
        for cls, generator in enumerate(self.generators):
            missing, unexpected = generator.load_state_dict(bank.member_state(cls), strict=False)
            assert not unexpected and {name.split(".")[1] for name in missing} <= {"bias", "num_batches_tracked"}
        for generator in self.generators:
            generator.to(device)
        self.optimizers = [torch.optim.Adam(g.parameters(), lr=LR) for g in self.generators]
        self.seen: list[Tensor] = []
        for layer in teacher.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(lambda layer, inputs, output: self.seen.append(inputs[0]))
        self.index = 0

    def __call__(self) -> list[Tensor]:
        """Update every generator once."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        images = torch.cat([g(self._noise(cls)) for cls, g in enumerate(self.generators)])
        self.seen.clear()
        logits = self.teacher(images)
        targets = torch.arange(len(self.generators), device=self.device).repeat_interleave(self.images)
        label = F.cross_entropy(logits, targets)
        moments = torch.zeros((), device=self.device)
        for inputs, (mean, variance) in zip(self.seen, self.wanted, strict=True):
            for cls, part in enumerate(self._by_class(inputs)):
                moments = moments + torch.linalg.vector_norm(part.mean((0, 2, 3)) - mean[cls])
                moments = moments + torch.linalg.vector_norm(part.var((0, 2, 3), correction=0) - variance[cls])
        moments = moments / len(self.generators)
        variation, l2 = losses.total_variation(images), losses.image_l2(images)
        loss = label + MOMENT_WEIGHT * moments + TV_WEIGHT * variation + L2_WEIGHT * l2
        (loss * len(self.generators)).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.index += 1
        return [label, moments, variation, l2]

    def _by_class(self, inputs: Tensor) -> list[Tensor]:
        """Cut the maps of all images into those of each class."""
        if self.split:
            return list(inputs.split(self.images))
        return [inputs[cls * self.images : (cls + 1) * self.images] for cls in range(len(self.generators))]

    def _noise(self, cls: int) -> Tensor:
        """Draw what raykd's method draws, so that the first losses can be compared."""
        source = torch.Generator().manual_seed(mix(SEED, LATENTS, cls, self.index))
        return torch.randn(self.images, LATENT_DIM, generator=source).to(self.device)
