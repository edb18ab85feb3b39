"""Distillation on unlabelled images of another domain: the "alternative data" rows of DAFL's tables.

    S <- T^2 KL(T(x) / T || S(x) / T),   x from the stream ``ood``, whose labels nobody reads

It tells how far other real data alone goes (Chen et al., ICCV 2019, tables 1 and 3: USPS for MNIST), and is the
baseline of MosaicKD (Fang et al., NeurIPS 2021), who call it blind KD. KL is summed over classes and averaged over the
batch, in nats.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from raykd import losses
from raykd.config.base import Config
from raykd.methods.base import Method, MethodContext, Metrics, stream_teacher_logits
from raykd.spec import Batch


class BlindKdConfig(Config):
    """Only the temperature can be chosen."""

    name: Literal["blind_kd"]
    temperature: float = Field(default=4.0, gt=0, description="T: softens both networks' answers")


class BlindKd(Method):
    """The student imitates the teacher on what images there are."""

    config = BlindKdConfig
    streams = ("ood",)

    def __init__(self, config: BlindKdConfig, context: MethodContext) -> None:
        """Compile both networks."""
        super().__init__(config, context)
        self._config = config
        self._student = context.compiler(self.student)
        self._teacher = context.compiler(context.networks["teacher"])

    @classmethod
    def asks_teacher_of_stream(cls, config: Any) -> bool:
        """Tell that it does."""
        return True

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Take one step of gradient descent."""
        self.begin_step()
        batch = batches["ood"]
        teacher_logits = stream_teacher_logits(batch, self._teacher, self.world)
        with self.world.autocast():
            student_logits = self._student(batch.images)
        kd = losses.kd_divergence(student_logits.float(), teacher_logits, self._config.temperature)
        self.updaters["student"].minimise(kd)
        return {"loss/kd": kd}
