"""Knowledge distillation with the data (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531).

    S <- m alpha T^2 KL(T(x) / T || S(x) / T) + (1 - alpha) CE(S(x), y)

Symbols: alpha = alpha, T = temperature, m = multiplier. KL is summed over classes and averaged over the batch, in nats.

Normal, reversed and defective distillation (Yuan et al., CVPR 2020, arXiv 1909.11723: Re-KD, De-KD) are this method
with another teacher, so by recipe alone: a strong one, a weaker network, a network stopped early.

``arithmetic: released`` is what the released code of Yuan et al. computes: its KL is a mean over all B K entries, so K
times smaller. Their alpha 0.95, T 20, K 100 thus weighs the batch-mean KL by alpha T^2 / K = 3.8, and the
cross-entropy by 0.05.

``mix`` blends each image with another one of its batch, for student and teacher alike, so the teacher is asked in every
step; cross-entropy is then that with both labels, by their shares. With alpha 1 no label counts: how SRe2L (NeurIPS
2023, arXiv 2306.13092) trains a student on few synthetic images, with CutMix, T 20 and no factor T^2, which is
``multiplier: 0.0025``, 1 / T^2. With AdamW that factor hardly matters, with SGD it is one of the learning rate.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from raykd import losses
from raykd.config.base import Config
from raykd.data.mixing import MixKind, mix_images
from raykd.distributed.world import mix
from raykd.methods.base import Method, MethodContext, Metrics, stream_teacher_logits
from raykd.spec import Batch

Arithmetic = Literal["paper", "released"]

_MIX = 31  # keeps these draws apart from others of the same seed and step


class KdConfig(Config):
    """The symbols of the equation."""

    name: Literal["kd"]
    alpha: float = Field(default=0.9, ge=0, le=1, description="share of the divergence term")
    temperature: float = Field(default=4.0, gt=0, description="T: softens both networks' answers")
    arithmetic: Arithmetic = Field(default="paper", description="released: KL as a mean over classes too")
    multiplier: float = Field(default=1.0, gt=0, description="of the divergence term")
    mix: MixKind = Field(default="none", description="blend each image with another one: cutmix, mixup")
    mix_beta: float = Field(default=1.0, gt=0, description="b of Beta(b, b), of which the blend's share is drawn")


class Kd(Method):
    """Cross-entropy with the labels and divergence from the teacher, weighted."""

    config: ClassVar[type[Config]] = KdConfig
    streams = ("train",)

    def __init__(self, config: KdConfig, context: MethodContext) -> None:
        """Compile both networks."""
        super().__init__(config, context)
        self._config = config
        self._student = context.compiler(self.student)
        self._teacher = context.compiler(context.networks["teacher"])

    @classmethod
    def asks_teacher_of_stream(cls, config: Any) -> bool:
        """Tell that it does, unless it blends them."""
        return bool(config.mix == "none")

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Take one step of gradient descent."""
        index = self.begin_step()
        batch, config = batches["train"], self._config
        targets = [(1.0, batch.labels)]
        if config.mix != "none":
            mixed = mix_images(batch.images, config.mix, config.mix_beta, mix(self.context.seed, _MIX, index))
            targets = [(mixed.own, batch.labels), (1 - mixed.own, batch.labels[mixed.partners])]
            batch = Batch(mixed.images, batch.labels)
        teacher_logits = stream_teacher_logits(batch, self._teacher, self.world)
        with self.world.autocast():
            student_logits = self._student(batch.images)
        student_logits = student_logits.float()
        kd = losses.kd_divergence(student_logits, teacher_logits, config.temperature)
        if config.arithmetic == "released":
            kd = kd / student_logits.shape[1]
        cross_entropy = torch.stack(
            [share * F.cross_entropy(student_logits, labels) for share, labels in targets]
        ).sum()
        self.updaters["student"].minimise(config.alpha * config.multiplier * kd + (1 - config.alpha) * cross_entropy)
        return {"loss/kd": kd, "loss/cross_entropy": cross_entropy}
