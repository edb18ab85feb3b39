"""The logits of a network over many images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from raykd.distributed.world import World


@torch.no_grad()
def compute_logits(network: nn.Module, images: Iterable[Tensor], world: World) -> Tensor:
    """Return a network's logits (N, C) over batches of images, in float32, in evaluation mode."""
    was_training = network.training
    network.eval()
    rows = []
    for batch in images:
        with world.autocast():
            output = network(batch)
        rows.append((output[0] if isinstance(output, tuple) else output).float())
    network.train(was_training)
    return torch.cat(rows)
