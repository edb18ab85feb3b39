"""A method as somebody might write it in a package of their own: it replays all images that its generator ever made.

x = G(z), z ~ N(0, I)      G <- mean_i H(p_i) + sum_c pbar_c ln pbar_c      M <- M + x, in 8 bits
three times:  x' = augmented images of M      S <- T^2 KL(T(x') / T || S(x') / T)
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from raykd import losses
from raykd.config.base import Config
from raykd.config.optim import Optimizer
from raykd.data.augment import augment_normalised, check_augmentations
from raykd.distributed.updater import Updater
from raykd.distributed.world import mix
from raykd.methods.base import Method, MethodContext, Metrics
from raykd.spec import Batch

UPDATES = 3
_RECALL = 1


class ImageReplayConfig(Config):
    name: Literal["image_replay"]
    latent_dim: int = Field(default=8, gt=0)
    temperature: float = Field(default=4.0, gt=0)
    augment: tuple[str, ...] = ("crop", "flip")
    generator_optim: Optimizer

    @field_validator("augment")
    @classmethod
    def _known(cls, augment: tuple[str, ...]) -> tuple[str, ...]:
        check_augmentations(augment)
        return augment


class ImageReplay(Method):
    config = ImageReplayConfig
    makes_images = True

    def __init__(self, config: ImageReplayConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self._config = config
        spec, device = context.spec, context.world.device
        shape = (spec.channels, spec.size, spec.size)
        pixels = spec.channels * spec.size**2
        self.generator = nn.Sequential(
            nn.Linear(config.latent_dim, 32), nn.ReLU(), nn.Linear(32, pixels), nn.Tanh(), nn.Unflatten(1, shape)
        ).to(device)
        self.trained["generator"] = self.generator
        self.updaters["generator"] = Updater(
            self.generator.parameters(), config.generator_optim, context.world, context.steps
        )
        self._generate, self._student = context.compiler(self.generator), context.compiler(self.student)
        self._teacher = context.compiler(context.networks["teacher"])
        self._memory = torch.empty(0, *shape, dtype=torch.uint8)

    @classmethod
    def student_updates_per_step(cls, config: Any) -> int:
        return UPDATES

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        index = self.begin_step()
        context, world = self.context, self.world
        z = world.randn(context.global_batch, self._config.latent_dim, seed=context.seed, step=index)
        images = self._generate(z)
        logits = self._teacher(images)[0]
        entropy = losses.shannon(logits) + losses.information_entropy(logits, world.mean)
        self.updaters["generator"].minimise(entropy)
        self._remember(images.detach())
        for draw in range(UPDATES * index, UPDATES * (index + 1)):
            kd = self._update_student(draw)
        return {"loss/entropy": entropy, "loss/kd": kd}

    def sample(self, num_images: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(num_images, self._config.latent_dim, generator=generator)
        with torch.no_grad():
            images: Tensor = self.generator(z.to(self.world.device))
        return images

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self._memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._memory = state["memory"]

    def _remember(self, images: Tensor) -> None:
        """Keep the images of all workers, so that all remember the same."""
        unit = self.context.spec.denormalise(self.world.gather(images).flatten(0, 1)).clamp(0, 1)
        self._memory = torch.cat([self._memory, (255 * unit).round().to(torch.uint8).cpu()])

    def _update_student(self, draw: int) -> Tensor:
        context, spec = self.context, self.context.spec
        generator = torch.Generator().manual_seed(mix(context.seed, _RECALL, draw))
        rows = torch.randint(len(self._memory), (context.global_batch,), generator=generator)
        pixels = self._memory[rows[self.world.slice(context.global_batch)]].to(self.world.device)
        images = spec.normalise(pixels.float() / 255)
        images = augment_normalised(images, self._config.augment, spec, self.world, seed=context.seed, step=draw)
        with torch.no_grad():
            teacher_logits = self._teacher(images)[0]
        kd = losses.kd_divergence(self._student(images), teacher_logits, self._config.temperature)
        self.updaters["student"].minimise(kd)
        return kd
