"""Knowledge distillation with the data (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531).

    S <- m alpha T^2 KL(T(x) / T || S(x) / T) + (1 - alpha) CE(S(x), y)

Symbols: alpha = alpha, T = temperature, m = multiplier. KL is summed over classes and averaged over the batch, in nats.

Normal, reversed and defective distillation (Yuan et al., CVPR 2020, arXiv 1909.11723: Re-KD, De-KD) are this method
with another teacher, so by recipe alone: a strong one, a weaker network, a network stopped early.

``arithmetic: released`` is what the released code of Yuan et al. computes: its KL is a mean over all B K entries, so K
times smaller. Their alpha 0.95, T 20, K 100 thus weighs the batch-mean KL by alpha T^2 / K = 3.8, and the
cross-entropy by 0.05.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field

from raykd import losses
from raykd.config.base import Config
from raykd.methods.base import Method, MethodContext, Metrics, stream_teacher_logits
from raykd.spec import Batch

Arithmetic = Literal["paper", "released"]


class KdConfig(Config):
    """The symbols of the equation."""

    name: Literal["kd"]
    alpha: float = Field(default=0.9, ge=0, le=1, description="share of the divergence term")
    temperature: float = Field(default=4.0, gt=0)
    arithmetic: Arithmetic = Field(default="paper", description="released: KL as a mean over classes too")
    multiplier: float = Field(default=1.0, gt=0, description="of the divergence term")


class Kd(Method):
    """Cross-entropy with the labels and divergence from the teacher, weighted."""

    config: ClassVar[type[Config]] = KdConfig
    streams = ("train",)
    asks_teacher_of_stream = True

    def __init__(self, config: KdConfig, context: MethodContext) -> None:
        """Compile both networks."""
        super().__init__(config, context)
        self._config = config
        self._student = context.compiler(self.student)
        self._teacher = context.compiler(context.networks["teacher"])

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Take one step of gradient descent."""
        self.begin_step()
        batch, config = batches["train"], self._config
        teacher_logits = stream_teacher_logits(batch, self._teacher, self.world)
        with self.world.autocast():
            student_logits = self._student(batch.images)
        student_logits = student_logits.float()
        kd = losses.kd_divergence(student_logits, teacher_logits, config.temperature)
        if config.arithmetic == "released":
            kd = kd / student_logits.shape[1]
        cross_entropy = F.cross_entropy(student_logits, batch.labels)
        self.updaters["student"].minimise(config.alpha * config.multiplier * kd + (1 - config.alpha) * cross_entropy)
        return {"loss/kd": kd, "loss/cross_entropy": cross_entropy}
