"""What methods share that train one generator beside a student: its samples, and what may help against forgetting.

Two switches keep a student from forgetting what the generator no longer makes. Both are off by default.

    ema_generator d   after each of the generator's updates G~ <- d G~ + (1 - d) G, buffers copied; the student learns
                      from [G(z), G~(z~)], z~ drawn by itself, and its loss is the sum of the means over both halves:
                      MAD, momentum adversarial distillation (Do et al., NeurIPS 2022, arXiv 2209.10359); d is 0.95
    replay            part of each batch G(z) is replaced by images of earlier steps: `raykd.methods.replay`

Both halves are normalised as one batch where the student has BatchNorm (MAD has published no code that would tell).
The images that a run counts are those of G.
"""

import copy
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from raykd.config.base import Config
from raykd.config.optim import Optimizer
from raykd.distributed.updater import Updater
from raykd.distributed.world import World, mix
from raykd.methods.base import Method, MethodContext
from raykd.methods.replay import ImageRing, ReplayConfig

_AVERAGE = 31  # keeps these latents apart from others of the same seed and number


class GeneratingConfig(Config):
    """Switches against forgetting; see the module's text."""

    ema_generator: float | None = Field(
        default=None, gt=0, lt=1, description="decay of a moving average of the generator that teaches too (MAD: 0.95)"
    )
    replay: ReplayConfig | None = Field(default=None, description="images of earlier steps in the student's batches")


class GeneratingMethod(Method):
    """A method whose generator and student learn in turn, and which may show the student earlier images too."""

    makes_images = True
    generator: nn.Module

    def __init__(self, config: Any, context: MethodContext, generator: nn.Module, updates: int = 1) -> None:
        """Take the generator, give it its updater, and compile it.

        Args:
            config: a GeneratingConfig with a ``latent_dim`` and a ``generator_optim``.
            context: what the method is given.
            generator: of latents (B, latent_dim), in training mode.
            updates: of the generator in a step.
        """
        super().__init__(config, context)
        optim: Optimizer = config.generator_optim
        self._latent_dim: int = config.latent_dim
        self.generator = generator.to(self.world.device)
        self.trained["generator"] = self.generator
        self.updaters["generator"] = Updater(self.generator.parameters(), optim, self.world, context.steps * updates)
        self._generate = context.compiler(self.generator)
        self._decay: float | None = config.ema_generator
        self._average: nn.Module | None = None
        if self._decay is not None:
            self._average = copy.deepcopy(self.generator).requires_grad_(False)
            self.trained["generator_average"] = self._average
            self._generate_average = context.compiler(self._average)
        self._ring = None if config.replay is None else ImageRing(config.replay, context)

    @property
    def shows_others(self) -> bool:
        """Tell whether the student sees other images than the generator's present ones."""
        return self._ring is not None or self._average is not None

    @property
    def sources(self) -> int:
        """Return how many generators the student learns from: its loss is the sum of the means over each one's."""
        return 1 if self._average is None else 2

    def latents(self, number: int, stream: int = 0) -> Tensor:
        """Draw this worker's rows of the latents of that number, (b, latent_dim)."""
        seed = mix(self.context.seed, stream) if stream else self.context.seed
        return self.world.randn(self.context.global_batch, self._latent_dim, seed=seed, step=number)

    def shown(self, images: Tensor, update: int) -> Tensor:
        """Return what the student learns from in an update, (b sources, C, H, W), without gradient.

        Args:
            images: of the generator, (b, C, H, W), without gradient; they are kept for replay.
            update: its number, by which other images are drawn.
        """
        if self._ring is not None:
            images = self._ring.mix(images, update)
        if self._average is None:
            return images
        with torch.no_grad(), self.world.autocast():
            others = self._generate_average(self.latents(update, _AVERAGE))
        return torch.cat([images, others])

    @torch.no_grad()
    def follow_generator(self) -> None:
        """Move the average towards the generator, which has just been updated."""
        if self._average is None or self._decay is None:
            return
        theirs, own = self._average.parameters(), self.generator.parameters()
        torch._foreach_lerp_(list(theirs), list(own), 1 - self._decay)
        for buffer, new in zip(self._average.buffers(), self.generator.buffers(), strict=True):
            buffer.copy_(new)

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return images of held-out latents, normalised over the batch as in training."""
        return held_out_images(self.generator, self._latent_dim, num_images, seed, self.world)

    def state_dict(self) -> dict[str, Any]:
        """Return also the images that are kept."""
        return {**super().state_dict(), **({} if self._ring is None else {"replay": self._ring.state_dict()})}

    def checkpoint_bytes(self) -> int:
        """Return about how many bytes ``state_dict`` takes, with all images that will be kept."""
        return super().checkpoint_bytes() + (0 if self._ring is None else self._ring.nbytes)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state)
        if self._ring is not None:
            self._ring.load_state_dict(state["replay"])


def held_out_images(generator: nn.Module, latent_dim: int, num_images: int, seed: int, world: World) -> Tensor:
    """Return images of a generator that normalises by the batch, (N, C, H, W), the same on every worker."""
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(num_images, latent_dim, generator=source)
    with torch.no_grad():
        images: Tensor = generator(z.to(world.device))
    return images
