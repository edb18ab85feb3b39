"""Method: one distillation algorithm, and all that the engine may know of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from raykd.config.optim import Optimizer
from raykd.config.runtime import Runtime
from raykd.distributed.updater import Compiler, Updater
from raykd.distributed.world import World, mix
from raykd.spec import Batch, DataSpec

ClassMoments = list[tuple[Tensor, Tensor]]
"""Per BatchNorm layer of the teacher the (mean, biased variance) of its input by class, each float32 (K, C)."""

Metrics = dict[str, Tensor]
"""Scalar tensors by flat name (``loss/kd``), left on the device: the engine syncs once per report."""


@dataclass(frozen=True)
class MethodContext:
    """What a method is given: its networks, what it may know of the data, its budget, its place."""

    spec: DataSpec
    world: World
    networks: Mapping[str, nn.Module]
    student_optim: Optimizer | None
    steps: int
    global_batch: int
    seed: int
    compiler: Compiler
    runtime: Runtime = Runtime()
    statistics: ClassMoments | None = None


class Method(ABC):
    """One algorithm: declares ``roles`` and ``streams``, then steps, saves and restores.

    ``roles`` names the networks the engine must supply, ``streams`` the data: ``train``, ``ood`` (other images) and
    ``patches`` (the same, never augmented); ``()`` means data-free, and the training set is then never constructed.
    Networks that are part of the algorithm itself, such as a generator, the method builds. Whatever it trains goes into
    ``trained`` and ``updaters``, from which the checkpoint is made.
    """

    roles: ClassVar[tuple[str, ...]] = ("student", "teacher")
    streams: ClassVar[tuple[str, ...]] = ()
    sharded_by: ClassVar[Literal["images", "classes"]] = "images"
    """What is dealt to the workers: the images of a global batch, or the classes, each with its images."""
    matches_statistics: ClassVar[bool] = False
    """Whether the teacher must have BatchNorm layers."""
    asks_teacher_of_stream: ClassVar[bool] = False
    """Whether all it asks of the teacher are logits of its stream's images, so that cached ones will do."""
    student: nn.Module
    """There is one only if ``roles`` names it."""

    def __init__(self, context: MethodContext) -> None:
        """Take the student, if the method trains one, and give it its updater."""
        self.context = context
        self.world = context.world
        self.trained: dict[str, nn.Module] = {}
        self.updaters: dict[str, Updater] = {}
        if "student" in self.roles:
            assert context.student_optim is not None, "validated by the recipe"
            self.student = context.networks["student"]
            self.trained["student"] = self.student
            self.updaters["student"] = Updater(
                self.student.parameters(), context.student_optim, context.world, context.steps
            )
        self.steps_done = 0

    @classmethod
    def batches_of(cls, config: Any, stream: str) -> int:
        """Return how many batches of a stream one step takes, given as one, with the method's configuration."""
        return 1

    @property
    def total_steps(self) -> int:
        """Return how many steps there are, those done included; all workers agree."""
        return self.context.steps

    @property
    def images_per_step(self) -> int:
        """Return how many images all workers together make or take in the step to come."""
        return self.context.global_batch

    @property
    def total_images(self) -> int:
        """Return how many images a whole run makes or takes: its budget."""
        return self.context.steps * self.context.global_batch

    @property
    def milestone(self) -> bool:
        """Tell whether a part has just been finished that should be kept now; all workers agree."""
        return False

    @abstractmethod
    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Advance by one step of the paper's algorithm box and return its scalars."""

    def sample(self, num_images: int, seed: int) -> Tensor | None:
        """Return synthetic images (N, C, H, W) in network-input space, the same on every worker, or None.

        ``seed`` must come from outside training's own noise, so the images are held out.
        """
        return None

    def teacher_logits(self, batch: Batch, teacher: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Return the teacher's logits of a stream's batch, float32 (B, K): those known beforehand, or asked for now."""
        if batch.teacher_logits is not None:
            return batch.teacher_logits
        with self.world.autocast(), torch.no_grad():
            logits, _ = teacher(batch.images)
        return logits.float()

    def begin_step(self) -> int:
        """Count the step and seed torch's own generator (dropout) by (seed, rank, step); return the index."""
        index = self.steps_done
        torch.manual_seed(mix(self.context.seed, self.world.rank, index))
        self.steps_done += 1
        return index

    def shard(self) -> dict[str, Tensor]:
        """Return what this worker alone holds, by names that no other worker uses: for the checkpoint."""
        return {}

    def load_shard(self, parts: Mapping[str, Tensor]) -> None:
        """Take what is this worker's from all workers' ``shard`` (read lazily); called after ``load_state_dict``."""
        assert not parts, "whoever keeps something apart takes it back"

    def products(self) -> dict[str, dict[str, Tensor]]:
        """Return what this worker finished at a milestone: sets of tensors, each to become a file of that name."""
        return {}

    def products_manifest(self) -> dict[str, Any] | None:
        """Return what a reader of all products must know, as plain data, or None where there are none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return all that training has changed and all workers share, as tensors and plain numbers."""
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
