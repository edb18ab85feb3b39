"""Tf-KD_reg: a hand-made teacher that is always right (Yuan et al., CVPR 2020, arXiv 1909.11723, eqs. 10 and 11).

    p^d_c = a for the label, (1 - a) / (K - 1) for each other class
    S <- m alpha T^2 KL(p^d_T || S(x) / T) + (1 - alpha) CE(S(x), y),    p^d_T = softmax(ln p^d / T)

Symbols: a = correct_prob, alpha = alpha, T = temperature, m = multiplier. There is no teacher network, so no forward
pass of one. The factor T^2 is that of all divergences here; the paper prints the equation without it, which is a
multiplier of 1 / T^2.

``arithmetic: released`` is what the released code computes: the target is softmax(p^d / T), of the *probabilities*, the
student stays at temperature 1, there is no T^2, and the KL is a mean over all B K entries:

    S <- m alpha / K * KL(softmax(p^d / T) || S(x)) + (1 - alpha) CE(S(x), y)

With a = 0.99, T = 20, K = 100 that target is 0.0105 for the label and 0.0100 elsewhere: label smoothing but for names.
Effective weights of the batch-mean KL: 0.1 for ResNet-18 (alpha 0.1, m 100), 0.0095 for MobileNetV2 (alpha 0.95, m 1).
"""

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raykd import losses
from raykd.config.base import Config
from raykd.errors import UsageError
from raykd.methods.base import Method, MethodContext, Metrics
from raykd.methods.kd import Arithmetic
from raykd.spec import Batch


class TfkdRegConfig(Config):
    """The symbols of the equations."""

    name: Literal["tfkd_reg"]
    alpha: float = Field(default=0.1, ge=0, le=1, description="share of the divergence term")
    temperature: float = Field(default=20.0, gt=0, description="T: softens both networks' answers")
    correct_prob: float = Field(default=0.99, gt=0, lt=1, description="the virtual teacher's confidence")
    arithmetic: Arithmetic = Field(default="paper", description="released: probabilities softened, no T^2, class mean")
    multiplier: float = Field(default=1.0, gt=0, description="of the divergence term")


class TfkdReg(Method):
    """Cross-entropy with the labels and divergence from the virtual teacher, weighted."""

    config = TfkdRegConfig
    roles = ("student",)
    streams = ("train",)

    def __init__(self, config: TfkdRegConfig, context: MethodContext) -> None:
        """Compile the student.

        Raises:
            UsageError: if the virtual teacher would not prefer the label.
        """
        super().__init__(config, context)
        if config.correct_prob * context.spec.num_classes <= 1:
            raise UsageError(
                f"method.correct_prob {config.correct_prob} is not above chance with {context.spec.num_classes} "
                "classes: the virtual teacher must prefer the label; the paper takes 0.99"
            )
        self._config = config
        self._student = context.compiler(self.student)

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Take one step of gradient descent."""
        self.begin_step()
        batch, config = batches["train"], self._config
        with self.world.autocast():
            logits = self._student(batch.images)
        logits = logits.float()
        divergence = self._divergence(logits, batch.labels)
        cross_entropy = F.cross_entropy(logits, batch.labels)
        self.updaters["student"].minimise(
            config.alpha * config.multiplier * divergence + (1 - config.alpha) * cross_entropy
        )
        return {"loss/virtual_teacher": divergence, "loss/cross_entropy": cross_entropy}

    def _divergence(self, logits: Tensor, labels: Tensor) -> Tensor:
        config, classes = self._config, logits.shape[1]
        teacher = losses.virtual_teacher(labels, classes, config.correct_prob)
        if config.arithmetic == "released":
            return losses.kd_divergence(logits, teacher / config.temperature) / classes
        return losses.kd_divergence(logits, teacher.log(), config.temperature)
