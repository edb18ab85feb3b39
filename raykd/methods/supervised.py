"""Supervised training on labelled data: how teachers are made, and the plain-student row of every table.

S <- CE(S(x), y)
"""

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F

from raykd.config.base import Config
from raykd.methods.base import Method, MethodContext, Metrics
from raykd.spec import Batch


class SupervisedConfig(Config):
    """Nothing but the optimizer and the schedule decide plain training."""

    name: Literal["supervised"]


class Supervised(Method):
    """Cross-entropy with the labels."""

    config = SupervisedConfig
    roles = ("student",)
    streams = ("train",)

    def __init__(self, config: SupervisedConfig, context: MethodContext) -> None:
        """Compile the student."""
        super().__init__(config, context)
        self._student = context.compiler(self.student)

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Take one step of gradient descent."""
        self.begin_step()
        batch = batches["train"]
        with self.world.autocast():
            logits = self._student(batch.images)
        loss = F.cross_entropy(logits.float(), batch.labels)
        self.updaters["student"].minimise(loss)
        return {"loss/cross_entropy": loss}
