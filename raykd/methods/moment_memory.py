"""Moments of a teacher's BatchNorm inputs as a loss, with an average that takes the noise out of a batch's.

    m_l <- (1 - r) m_l(batch) + r M_l        M_l <- (1 - r) m_l(last step of a batch) + r M_l, once a batch

(Fast-DFKD: Fang et al., AAAI 2022, arXiv 2112.06253.) At first there is no M. The average carries no gradient, so the
loss has 1 - r of the gradient that it would have without.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raykd import losses
from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.methods.base import ClassMoments
from raykd.models.moments import MomentTeacher

Distance = Literal["relative", "distance", "divergence"]
_LOSSES = {
    "relative": losses.bn_relative, "distance": losses.bn_statistics, "divergence": losses.bn_divergence,
}  # fmt: skip


class MomentMemory:
    """The average M over calls, the same on every worker."""

    def __init__(self, running: ClassMoments, distance: Distance, share: float, world: World) -> None:
        """Compare with the ``running`` moments of each layer, (mean, variance) of [C]; ``share`` is r."""
        self._running, self._loss, self._share, self._world = running, _LOSSES[distance], share, world
        self._average: ClassMoments = []

    def loss(self, moments: ClassMoments) -> Tensor:
        """Return the distance of a batch's moments, each [C], to the running ones, the average taken in."""
        return self._loss(self._blended(moments), self._running)

    def remember(self, moments: ClassMoments) -> None:
        """Take the last step's moments, the mean of all workers' shares, into the average."""
        if not moments or not self._share:
            return
        flat = torch.cat([values.detach().float() for pair in moments for values in pair])
        flat = self._world.sum(flat) / self._world.size
        pieces = iter(flat.split([len(values) for pair in moments for values in pair]))
        self._average = self._blended(list(zip(pieces, pieces, strict=True)))

    def _blended(self, moments: ClassMoments) -> ClassMoments:
        if not self._average:
            return moments
        return [
            (torch.lerp(mean, old_mean, self._share), torch.lerp(variance, old_variance, self._share))
            for (mean, variance), (old_mean, old_variance) in zip(moments, self._average, strict=True)
        ]

    def state_dict(self) -> list[list[Tensor]]:
        """Return the average, layer by layer."""
        return [list(pair) for pair in self._average]

    def load_state_dict(self, state: Sequence[Sequence[Any]]) -> None:
        """Restore what ``state_dict`` returned."""
        device = self._world.device
        self._average = [(mean.to(device), variance.to(device)) for mean, variance in state]


def wrap_teacher(teacher: nn.Module) -> MomentTeacher:
    """Wrap a teacher.

    Raises:
        UsageError: if it has no BatchNorm layers, or some whose moments cannot be told; with what to set instead.
    """
    try:
        return MomentTeacher(teacher)  # type: ignore[arg-type]
    except UsageError as error:
        raise UsageError(
            f"{error}; or invert it without: method.moment_weight=0 and method.contrast_weight=0, in their place "
            "method.balance_weight=1 and method.tv_weight=0.1"
        ) from error
