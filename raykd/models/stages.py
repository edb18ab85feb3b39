"""The feature maps of a network by stages, and those of two networks that can be compared.

A stage is what happens at one spatial size. Its map is what comes out last at that size: of a block, that is a module
made of others, or, where no block of a network puts out maps, of a layer.

Shapes: B batch, C channels (another number in every stage), H W map.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raykd.errors import UsageError

Size = tuple[int, int]


class _MapTap:
    """A forward hook that keeps the output of one module, when armed, until it is taken.

    An object, not a closure, so that a deep copy of the network taps into its own copy; armed only while its
    `StageMaps` runs, so that running the network otherwise leaves nothing behind.
    """

    def __init__(self) -> None:
        self.armed = False
        self.held: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.armed:
            self.held = output

    def take(self) -> Tensor | None:
        self.armed = False
        held, self.held = self.held, None  # what stayed here would keep the whole graph alive
        return held


class StageMaps(nn.Module):
    """A network that also returns the outputs of some of its modules; the network works by itself as before."""

    def __init__(self, network: nn.Module, modules: Sequence[str]) -> None:
        """Tap into the modules of these names."""
        super().__init__()
        self.network = network
        self.modules_tapped = tuple(modules)
        self.taps = [_MapTap() for _ in modules]
        for name, tap in zip(modules, self.taps, strict=True):
            network.get_submodule(name).register_forward_hook(tap)

    def forward(self, images: Tensor) -> tuple[Any, list[Tensor]]:
        """Return what the network returns for images, and the maps [B, C, H, W] in the order of the modules.

        Raises:
            UsageError: if the network ran without one of the modules.
        """
        for tap in self.taps:
            tap.armed = True
        try:
            output = self.network(images)
        finally:
            taken = [tap.take() for tap in self.taps]
        maps = [held for held in taken if held is not None]
        if len(maps) < len(taken):
            missing = [name for name, held in zip(self.modules_tapped, taken, strict=True) if held is None]
            raise UsageError(
                f"the network ran without its modules {missing} this time; its path must not depend on the images"
            )
        return output, maps


def find_stages(network: nn.Module, shape: Sequence[int]) -> dict[Size, str]:
    """Return the name of the module that puts out the map of each stage, by (H, W), in the order of their running.

    Maps of a single pixel are left out: nothing in them is more or less attended to. Costs one forward pass of two
    black images, in evaluation mode.

    Args:
        network: of images [B, *shape].
        shape: of an image, (channels, size, size).
    """
    blocks: dict[Size, str] = {}
    layers: dict[Size, str] = {}

    def note(name: str, found: dict[Size, str], output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
            found[output.shape[2], output.shape[3]] = name

    handles = []
    for name, module in network.named_modules():
        found = blocks if any(True for _ in module.children()) else layers
        handles.append(module.register_forward_hook(lambda m, a, output, n=name, f=found: note(n, f, output)))
    training = network.training
    like = next(network.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, *shape, dtype=like.dtype, device=like.device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return blocks or layers


def shared_stages(teacher: nn.Module, student: nn.Module, shape: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return the names of modules of teacher and of student whose maps have equal sizes, stage by stage.

    Args:
        teacher: of images [B, *shape].
        student: likewise.
        shape: of an image, (channels, size, size).

    Raises:
        UsageError: if there is no such stage.
    """
    of_teacher, of_student = find_stages(teacher, shape), find_stages(student, shape)
    sizes = [size for size in of_teacher if size in of_student]
    if not sizes:
        raise UsageError(
            f"no feature maps of teacher and student have the same size: the teacher's stages are "
            f"{_listed(of_teacher)}, the student's {_listed(of_student)}; leave out their attention "
            "(method.attention_weight=0), or take networks of one family"
        )
    return [of_teacher[size] for size in sizes], [of_student[size] for size in sizes]


def _listed(stages: dict[Size, str]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in stages) or "none"
