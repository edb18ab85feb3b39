"""Method: one distillation algorithm, and all that the engine may know of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from raykd.config import Optimizer
from raykd.data.spec import DataSpec
from raykd.parallel import Compiler, Updater, World, mix

Metrics = dict[str, Tensor]
"""Scalar tensors by flat name (``loss/kd``), left on the device: the engine syncs once per report."""


class Batch(NamedTuple):
    """What a stream yields: normalised images, float (B, C, H, W), and labels, int64 (B,), on the device."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Setting:
    """What a method is given: its networks, what it may know of the data, its budget, its place."""

    spec: DataSpec
    world: World
    networks: Mapping[str, nn.Module]
    student_optim: Optimizer
    steps: int
    global_batch: int
    seed: int
    compiler: Compiler


class Method(ABC):
    """One algorithm: declares ``roles`` and ``streams``, then steps, saves and restores.

    ``roles`` names the networks the engine must supply, ``streams`` the data; ``()`` means data-free, and the
    training set is then never constructed. Networks that are part of the algorithm itself, such as a
    generator, the method builds. Whatever it trains goes into ``trained`` and ``updaters``, from which the
    checkpoint is made.
    """

    roles: ClassVar[tuple[str, ...]] = ("student", "teacher")
    streams: ClassVar[tuple[str, ...]] = ()

    def __init__(self, setting: Setting) -> None:
        """Take the student and give it its updater."""
        self.setting = setting
        self.world = setting.world
        self.student = setting.networks["student"]
        self.trained: dict[str, nn.Module] = {"student": self.student}
        self.updaters: dict[str, Updater] = {
            "student": Updater(self.student.parameters(), setting.student_optim, setting.world, setting.steps)
        }
        self.steps_done = 0

    @abstractmethod
    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Advance by one step of the paper's algorithm box and return its scalars."""

    def sample(self, num_images: int, seed: int) -> Tensor | None:
        """Return synthetic images (N, C, H, W) in network-input space, the same on every worker, or None.

        ``seed`` must come from outside training's own noise, so the images are held out.
        """
        return None

    def begin_step(self) -> int:
        """Count the step and seed torch's own generator (dropout) by (seed, rank, step); return the index."""
        index = self.steps_done
        torch.manual_seed(mix(self.setting.seed, self.world.rank, index))
        self.steps_done += 1
        return index

    def state_dict(self) -> dict[str, Any]:
        """Return all that training has changed, as tensors and plain numbers."""
        return {
            "steps_done": self.steps_done,
            "trained": {name: network.state_dict() for name, network in self.trained.items()},
            "updaters": {name: updater.state_dict() for name, updater in self.updaters.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.steps_done = state["steps_done"]
        for name, network in self.trained.items():
            network.load_state_dict(state["trained"][name])
        for name, updater in self.updaters.items():
            updater.load_state_dict(state["updaters"][name])
