"""MosaicKD: mosaicking to distill (Fang et al., NeurIPS 2021, arXiv 2110.15094).

One step, x_ood and x' from unrelated real images, z ~ N(0, I), n images of each, all networks given normalised images:

    x = G(z)
    D <- w (L(d(x), synthetic) + L(d(x_ood), real)) / 2
    G <- w L(d(x), real) + a mean_i H(p_i) + b sum_c pbar_c ln pbar_c - v KL(T(x) || S(x))
    k times, with fresh z and x':   S <- T^2 KL(T([G(z), x']) / T || S([G(z), x']) / T)

Symbols: d(x) are D's logits, one per patch, L their binary cross-entropy, *summed* over an image's patches and averaged
over images; p_i = softmax of the teacher's logits, pbar their mean; w = local_weight, a = align_weight,
b = balance_weight, v = adversarial_weight, k = student_steps, T = temperature. The gradient of the last term flows
through teacher and student into x. The rates of G and D follow their schedules by steps, that of S by its own updates.

Units: nats. The authors' balance is in bits, so their 10 is 10 / ln 2 = 14.427 here, the default. For whole images
(``patch: image``) there is one patch where there were 64: a local_weight of 64 compares.

Where we differ from the authors' code: G's step leaves the student's running statistics alone (``student_statistics:
published`` lets G's images in, as theirs does); D and G learn from the same synthetic images; the last, smaller batch
of an epoch does not exist; S sees other images normalised as the teacher was trained (theirs: as those images' own
set). With several workers pbar is that of the global batch, gradients included, while batch normalisation, the
discriminator's too, sees a worker's share (theirs: synchronised; no difference was seen, benchmarks/mosaic_norm.py).
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from raykd import losses
from raykd.config.base import Config
from raykd.config.optim import Adam, Optimizer
from raykd.distributed.updater import Updater
from raykd.generators import STANDARDISED, Output, Patch, PatchDiscriminator, UnitGenerator
from raykd.methods.base import Method, MethodContext, Metrics
from raykd.methods.generating import held_out_images
from raykd.models.moments import statistics_kept
from raykd.spec import Batch


class MosaicKdConfig(Config):
    """Weights are in nats; see the module's text for the authors' units."""

    name: Literal["mosaickd"]
    latent_dim: int = Field(default=100, gt=0, description="size of the noise that images are made from")
    generator_width: int = Field(default=256, gt=3, multiple_of=4, description="channels of the first maps")
    discriminator_width: int = Field(default=128, gt=0, description="channels of the first maps")
    patch: Patch = Field(default=10, description="the discriminator's receptive field in pixels, or image")
    local_weight: float = Field(default=1.0, ge=0, description="of patches looking real")
    align_weight: float = Field(default=1.0, ge=0, description="of the teacher's certainty")
    adversarial_weight: float = Field(default=1.0, ge=0, description="of the student's disagreement")
    balance_weight: float = Field(default=14.427, ge=0, description="of classes being equally frequent")
    align: Literal["entropy", "cross_entropy"] = Field(default="entropy", description="of H(p), or to the argmax")
    student_steps: int = Field(default=5, gt=0, description="student updates in one step")
    student_statistics: Literal["clean", "published"] = Field(
        default="clean", description="whether the generator's update leaves the student's running statistics alone"
    )
    temperature: float = Field(default=1.0, gt=0, description="T: softens both networks' answers")
    generator_optim: Optimizer = Field(
        default=Adam(name="adam", lr=1e-3, betas=(0.5, 0.999)), description="of the generator"
    )
    discriminator_optim: Optimizer = Field(
        default=Adam(name="adam", lr=1e-3, betas=(0.5, 0.999)), description="of the discriminator"
    )


class MosaicKd(Method):
    """Discriminator, generator and student play; the teacher judges."""

    config = MosaicKdConfig
    streams = ("ood", "patches")
    makes_images = True

    def __init__(self, config: MosaicKdConfig, context: MethodContext) -> None:
        """Build generator, discriminator and their updaters; compile all four networks."""
        super().__init__(config, context)
        self._config = config
        spec, device = context.spec, self.world.device
        output = STANDARDISED if spec.normalisation_known else Output("learned")  # its images are pixels in any case
        maps = [config.generator_width // divisor for divisor in (1, 2, 4)]
        generator = UnitGenerator(config.latent_dim, spec.size, spec.mean, spec.std, maps, output=output)
        self.generator = generator.to(device)
        self.trained["generator"] = self.generator
        discriminator = PatchDiscriminator(spec.channels, spec.size, config.discriminator_width, config.patch)
        self.trained["discriminator"] = discriminator.to(memory_format=torch.channels_last).to(device)
        for role, optim in (("generator", config.generator_optim), ("discriminator", config.discriminator_optim)):
            self.updaters[role] = Updater(self.trained[role].parameters(), optim, self.world, context.steps)
        self._generate, self._student = context.compiler(self.generator), context.compiler(self.student)
        self._teacher = context.compiler(context.networks["teacher"])
        self._discriminate = context.compiler(discriminator)

    @classmethod
    def student_updates_per_step(cls, config: Any) -> int:
        """Return k."""
        return int(config.student_steps)

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Update the discriminator, the generator, then the student several times."""
        index = self.begin_step()
        draws = 1 + self._config.student_steps
        images = self._images(index * draws)
        metrics = self._update_discriminator(images.detach(), batches["patches"].images)
        metrics |= self._update_generator(images)
        del images
        self.context.clock.charge("synthesis")
        for draw, other in enumerate(batches["ood"].images.chunk(self._config.student_steps), start=1):
            with torch.no_grad():
                images = self._images(index * draws + draw)
            self.context.clock.charge("synthesis")
            kd = self._update_student(torch.cat([images, other]))
            self.context.clock.charge("student")
        return {**metrics, "loss/kd": kd}

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return images of held-out latents, normalised over the batch as in training."""
        return held_out_images(self.generator, self._config.latent_dim, num_images, seed, self.world)

    def _images(self, draw: int) -> Tensor:
        context = self.context
        z = self.world.randn(context.global_batch, self._config.latent_dim, seed=context.seed, step=draw)
        with self.world.autocast():
            images: Tensor = self._generate(z)
        return images

    def _update_discriminator(self, synthetic: Tensor, real: Tensor) -> Metrics:
        if not self._config.local_weight:
            return {}
        with self.world.autocast():
            of_synthetic, of_real = self._discriminate(synthetic), self._discriminate(real)
        loss = 0.5 * (losses.patch_fake(of_synthetic.float()) + losses.patch_real(of_real.float()))
        self.updaters["discriminator"].minimise(self._config.local_weight * loss)
        return {"loss/discriminator": loss}

    def _update_generator(self, images: Tensor) -> Metrics:
        config = self._config
        with self.world.autocast():
            teacher_logits = self._teacher(images)[0].float()
        align = (losses.shannon if config.align == "entropy" else losses.onehot)(teacher_logits)
        balance = losses.information_entropy(teacher_logits, self.world.mean)
        loss = config.align_weight * align + config.balance_weight * balance
        metrics = {"loss/align": align, "loss/balance": balance}
        if config.adversarial_weight:
            kept = statistics_kept(self.student) if config.student_statistics == "clean" else nullcontext()
            with self.world.autocast(), kept:
                student_logits = self._student(images).float()
            metrics["loss/adversarial"] = losses.disagreement(student_logits, teacher_logits)
            loss = loss + config.adversarial_weight * metrics["loss/adversarial"]
        if config.local_weight:
            with self.world.autocast():
                patches = self._discriminate(images).float()
            metrics["loss/local"] = losses.patch_real(patches)
            loss = loss + config.local_weight * metrics["loss/local"]
        self.updaters["generator"].minimise(loss)
        return metrics

    def _update_student(self, images: Tensor) -> Tensor:
        with self.world.autocast():
            with torch.no_grad():
                teacher_logits = self._teacher(images)[0].float()
            student_logits = self._student(images).float()
        kd = losses.kd_divergence(student_logits, teacher_logits, self._config.temperature)
        self.updaters["student"].minimise(kd)
        return kd
