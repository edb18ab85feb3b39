"""Distillation on Gaussian noise: the control that every data-free result stands beside.

    x ~ N(0, I)        S <- T^2 KL(T(x) / T || S(x) / T)

The noise lives in the network's (normalised) input space, as in the "Gaussian noise" rows of DAFL's tables 1 and 3.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from raykd import losses
from raykd.config.base import Config
from raykd.methods.base import Method, MethodContext, Metrics
from raykd.methods.signs import Remark, TeacherSigns
from raykd.spec import Batch


class NoiseConfig(Config):
    """Only the temperature can be chosen."""

    name: Literal["noise"]
    temperature: float = Field(default=1.0, gt=0, description="T: softens both networks' answers")


class Noise(Method):
    """The student imitates the teacher on noise."""

    config = NoiseConfig
    makes_images = True

    def __init__(self, config: NoiseConfig, context: MethodContext) -> None:
        """Compile both networks."""
        super().__init__(config, context)
        self._config = config
        self._student = context.compiler(self.student)
        self._teacher = context.compiler(context.networks["teacher"])
        self._shape = (context.spec.channels, context.spec.size, context.spec.size)

    @classmethod
    def judge_teacher(cls, signs: TeacherSigns) -> Iterable[Remark]:
        """See of how many classes the teacher takes noise to be."""
        if signs.noise_classes is not None:
            few = signs.noise_classes < 1 + 0.1 * (signs.classes - 1)
            text = f"to it noise is of {signs.noise_classes:.1f} of {signs.classes} classes"
            yield Remark("con" if few else "pro", text)

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Draw noise, ask the teacher, teach the student."""
        index = self.begin_step()
        images = self.world.randn(self.context.global_batch, *self._shape, seed=self.context.seed, step=index)
        with self.world.autocast():
            with torch.no_grad():
                teacher_logits, _ = self._teacher(images)
            student_logits = self._student(images)
        kd = losses.kd_divergence(student_logits.float(), teacher_logits.float(), self._config.temperature)
        self.updaters["student"].minimise(kd)
        return {"loss/kd": kd}

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return held-out noise."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(num_images, *self._shape, generator=generator).to(self.world.device)
