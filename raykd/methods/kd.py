"""Knowledge distillation with the data (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531).

    S <- alpha T^2 KL(T(x) / T || S(x) / T) + (1 - alpha) CE(S(x), y)

Symbols: alpha = alpha, T = temperature. KL is summed over classes and averaged over the batch, in nats.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from raykd import losses
from raykd.config import Section
from raykd.methods.base import Batch, Method, Metrics, Setting


class KdConfig(Section):
    """The two symbols of the equation."""

    name: Literal["kd"]
    alpha: float = Field(default=0.9, ge=0, le=1, description="share of the divergence term")
    temperature: float = Field(default=4.0, gt=0)


class Kd(Method):
    """Cross-entropy with the labels and divergence from the teacher, weighted."""

    streams = ("train",)

    def __init__(self, config: KdConfig, setting: Setting) -> None:
        """Compile both networks."""
        super().__init__(setting)
        self._config = config
        self._student = setting.compiler(self.student)
        self._teacher = setting.compiler(setting.networks["teacher"])

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Take one step of gradient descent."""
        self.begin_step()
        images, labels = batches["train"]
        with self.world.autocast():
            with torch.no_grad():
                teacher_logits, _ = self._teacher(images)
            student_logits = self._student(images).float()
        kd = losses.kd_divergence(student_logits, teacher_logits.float(), self._config.temperature)
        cross_entropy = F.cross_entropy(student_logits, labels)
        alpha = self._config.alpha
        self.updaters["student"].minimise(alpha * kd + (1 - alpha) * cross_entropy)
        return {"loss/kd": kd, "loss/cross_entropy": cross_entropy}
