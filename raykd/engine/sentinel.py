"""Stop a run whose numbers are no longer finite, before it overwrites its last good checkpoint."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from raykd.errors import RunFailed


def parameter_norms(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """Return the l2 norm of each network's parameters: not finite as soon as one parameter is not."""
    return {
        f"parameters/{name}": torch.nn.utils.get_total_norm(network.parameters()).item()
        for name, network in networks.items()
    }


def check_finite(metrics: Mapping[str, float], step: int) -> None:
    """Refuse non-finite metrics; called before a checkpoint is written, so the last good one stays.

    Raises:
        RunFailed: naming the quantities.
    """
    names = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if names:
        raise RunFailed(
            f"{', '.join(names)} not finite at step {step}; no checkpoint was written for it. "
            "Lower the learning rate (student_optim.lr, method.generator_optim.lr) or a loss weight"
        )
