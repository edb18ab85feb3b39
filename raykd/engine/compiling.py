"""Whether and how the networks of a run are compiled."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from raykd.config.runtime import Compile
from raykd.distributed.host import compile_obstacle
from raykd.distributed.updater import Compiler

logger = logging.getLogger(__name__)

# Compiling costs minutes of CPU and gains a tenth of the time there; below this many images it does not pay.
_IMAGES_WORTH_COMPILING = 5_000_000


def choose_compiler(how: Compile, device: torch.device, images: int) -> Compiler:
    """Return what turns the networks of a run into what its steps call.

    Args:
        how: as the runtime says.
        device: on which they compute. Graphs are a GPU's; elsewhere networks are only compiled.
        images: that this worker's networks will see in all; few are not worth compiling for ``auto``.
    """
    if how == "off" or (how == "auto" and images < _IMAGES_WORTH_COMPILING):
        return _not_compiled
    obstacle = compile_obstacle(device.type)
    if obstacle:
        logger.warning("running without torch.compile: %s", obstacle)
        return _not_compiled
    if how == "graphs" and device.type == "cuda":
        return lambda network: replayed(torch.compile(network, dynamic=False, mode="reduce-overhead"))
    if how == "graphs":
        logger.warning("compile: graphs is for GPUs: here, on %s, networks are compiled and no graph is kept", device)
    return lambda network: torch.compile(network, dynamic=False)


def replayed(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable whose answers stay: a graph writes those of every replay to the same memory.

    Gradients flow through the copies. A step may so call a network twice, and keep images from one step to another.
    """

    def answered(*args: Any) -> Any:
        return tree_map_only(Tensor, torch.clone, call(*args))

    return answered


def _not_compiled(network: nn.Module) -> Callable[..., Any]:
    return network
