"""Elastic training with only those numbers of workers that divide the batch.

Ray's own policy takes as many workers as there is room for. Seven of eight cannot share a batch of 256, so after the
loss of one they would all fail; here four go on. This overrides two methods of Ray 2.60 that are not public.
"""

from collections.abc import Sequence
from typing import Any

from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


class FittingPolicy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's elastic policy, rounded down to a number of workers that fits."""

    def __init__(self, scaling_config: Any, fitting: Sequence[int]) -> None:
        """Allow the numbers in ``fitting`` alone."""
        super().__init__(scaling_config)
        self._fitting = tuple(fitting)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((count for count in self._fitting if count <= possible), default=0)


class ElasticTrainer(TorchTrainer):  # type: ignore[misc]
    """TorchTrainer whose elastic range has only the fitting numbers in it."""

    def __init__(self, *arguments: Any, fitting: Sequence[int], **options: Any) -> None:
        """Take what TorchTrainer takes, and the numbers of workers that fit."""
        super().__init__(*arguments, **options)
        self._fitting = tuple(fitting)

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        if len(self._fitting) > 1:
            options["scaling_policy"] = FittingPolicy(self.scaling_config, self._fitting)
        return super()._initialize_and_run_controller(**options)
