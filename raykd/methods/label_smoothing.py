"""Label smoothing (Szegedy et al. 2016), as the regulariser beside teacher-free distillation.

    S <- (1 - a) CE(S(x), y) + a KL(u || S(x)) + const,    u uniform over K classes

Symbol: a = smoothing. The constant a ln K is part of the loss that is reported. Yuan et al. (CVPR 2020, arXiv
1909.11723, eq. 2) show it to be distillation from a uniform teacher.

``arithmetic: released`` is what their released code computes: the label keeps 1 - a, and each of the other K - 1
classes gets a / (K - 1); their a is the paper's times (K - 1) / K.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from raykd import losses
from raykd.config.base import Config
from raykd.methods.base import Method, MethodContext, Metrics
from raykd.methods.kd import Arithmetic
from raykd.spec import Batch


class LabelSmoothingConfig(Config):
    """How much of the label's mass is spread."""

    name: Literal["label_smoothing"]
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of the label that other classes get")
    arithmetic: Arithmetic = Field(default="paper", description="released: spread over the other classes only")


class LabelSmoothing(Method):
    """Cross-entropy with softened labels."""

    config = LabelSmoothingConfig
    roles = ("student",)
    streams = ("train",)

    def __init__(self, config: LabelSmoothingConfig, context: MethodContext) -> None:
        """Compile the student."""
        super().__init__(config, context)
        classes = context.spec.num_classes
        spread = classes / (classes - 1) if config.arithmetic == "released" else 1.0
        self._smoothing = config.smoothing * spread
        self._student = context.compiler(self.student)

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Take one step of gradient descent."""
        self.begin_step()
        batch = batches["train"]
        with self.world.autocast():
            logits = self._student(batch.images)
        loss = losses.label_smoothing(logits.float(), batch.labels, self._smoothing)
        self.updaters["student"].minimise(loss)
        return {"loss/smoothed_cross_entropy": loss}
