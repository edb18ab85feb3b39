"""Method: one distillation algorithm, and all that the engine may know of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raykd.config.base import Config
from raykd.config.optim import Optimizer
from raykd.config.runtime import Runtime
from raykd.data.image_pool import PoolPart, SavedImages
from raykd.distributed.phases import Phase, PhaseClock
from raykd.distributed.updater import Compiler, Updater
from raykd.distributed.world import World, mix
from raykd.methods.cost import CostAxis, PlannedRun, by_images
from raykd.methods.signs import Remark, TeacherSigns
from raykd.models.compute import ComputeCounter
from raykd.spec import Batch, DataSpec

PATCHES = "patches"
"""The stream of other images as they are: one batch a step, never augmented."""

JUDGED = 1024
"""Images of generators that are given no class, by which these are judged at a report."""

ClassMoments = list[tuple[Tensor, Tensor]]
"""Per BatchNorm layer of the teacher the (mean, biased variance) of its input by class, each float32 (K, C)."""

OUTPUT_RANGE: Any = Field(
    default="auto",
    description="of generated images: standardised (mean 0, variance 1, as published), pixels (what there can be) or "
    "learned; auto: as published where mean and std make that possible",
)
"""The field of a method's configuration that `raykd.generators.choose_output` takes."""

Metrics = dict[str, Tensor]
"""Scalar tensors by flat name (``loss/kd``), left on the device: the engine syncs once per report."""


@dataclass(frozen=True)
class MethodContext:
    """What a method is given: its networks, what it may know of the data, its budget, its place among the workers."""

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
    mirrored: bool = False
    """Whether a mirrored image shows the same class: the data is augmented so, or the teacher's was."""
    compute: ComputeCounter = field(default_factory=ComputeCounter)
    """Counts what the networks that ``compiler`` returns compute."""
    clock: PhaseClock = field(default_factory=PhaseClock)
    """Is charged by a method with the images that it makes in a step, at their end; with the rest by the engine."""
    embeddings: Tensor | None = None
    """Of the classes, float32 (K, D), on the CPU: those of the file that the method's ``embeddings`` names."""


class Method(ABC):
    """One algorithm: declares what it needs and what it makes, then steps, saves and restores.

    Networks that are part of the algorithm itself, such as a generator, the method builds. Whatever it trains goes into
    ``trained`` and ``updaters``, from which the checkpoint is made; what else changes goes into ``state_dict``.
    """

    config: ClassVar[type[Config]]
    """The recipe's ``method`` section; its ``name: Literal[...]`` is the method's."""
    roles: ClassVar[tuple[str, ...]] = ("student", "teacher")
    """Networks that the engine must supply: ``student``, ``teacher``, ``bank``."""
    streams: ClassVar[tuple[str, ...]] = ()
    """Images that the engine must supply; ``()`` is data-free, and then no training set is ever opened.

    ``train`` and ``ood`` (images of another domain) come once for each update of the student, ``patches`` (those of
    ``ood``, never augmented) once a step.
    """
    makes_images: ClassVar[bool] = False
    """Whether there is ``sample``: then students are selected blind and images are judged and shown."""
    sharded_by: ClassVar[Literal["images", "classes", "jobs"]] = "images"
    """What the workers share among them: the images of a global batch, the classes, each with its images, or jobs,
    each of a global batch."""

    student: nn.Module
    """There is one only if ``roles`` names it."""
    total_steps: int
    """How many steps there are, those done included; all workers agree."""

    def __init_subclass__(cls) -> None:
        """Refuse a class that declares images and makes none, or the other way round."""
        super().__init_subclass__()
        if cls.makes_images != (cls.sample is not Method.sample):
            raise TypeError(f"{cls.__name__}: makes_images is {cls.makes_images}, which 'sample' must agree with")

    def __init__(self, config: Any, context: MethodContext) -> None:
        """Take the student, if the method trains one, and give it its updater."""
        self.context = context
        self.world = context.world
        self.trained: dict[str, nn.Module] = {}
        self.updaters: dict[str, Updater] = {}
        self.total_steps = context.steps
        self._images_per_step = self.images_of(config, 1, context.global_batch)
        if "student" in self.roles:
            assert context.student_optim is not None, "validated by the recipe"
            self.student = context.networks["student"]
            self.trained["student"] = self.student
            updates = self.student_updates(config, context.steps)
            self.updaters["student"] = Updater(self.student.parameters(), context.student_optim, context.world, updates)
        self._student_updates_per_step = self.student_updates_per_step(config)
        self.steps_done = 0

    @classmethod
    def student_updates_per_step(cls, config: Any) -> int:
        """Return how often the student is updated in a step, given the method's configuration."""
        return 1

    @classmethod
    def student_updates(cls, config: Any, steps: int) -> int:
        """Return how often the student is updated in a run of so many steps."""
        return steps * cls.student_updates_per_step(config)

    @classmethod
    def needs_statistics(cls, config: Any | None) -> bool:
        """Return whether the teacher must have BatchNorm layers; without a configuration, whether it always must."""
        return False

    @classmethod
    def phases(cls, config: Any, steps: int) -> Sequence[range]:
        """Return the parts of a run of so many steps whose steps cost differently, for planning."""
        return [range(steps)]

    @classmethod
    def images_of(cls, config: Any, steps: int, global_batch: int) -> int:
        """Return how many images a run of so many steps makes or takes: a batch of each source for each update.

        Sources are what the method makes and its streams but ``patches``; updates are those of the student.
        """
        sources = cls.makes_images + len(set(cls.streams) - {PATCHES})
        return global_batch * cls.student_updates(config, steps) * sources

    @classmethod
    def asks_teacher_of_stream(cls, config: Any) -> bool:
        """Tell whether all it asks of the teacher are logits of its stream's images, so that cached ones will do."""
        return False

    @classmethod
    def cost_axis(cls, config: Any, run: PlannedRun) -> CostAxis:
        """Return the quantity that a worker's time and memory grow with, for planning."""
        return by_images(run)

    @classmethod
    def judge_teacher(cls, signs: TeacherSigns) -> Iterable[Remark]:
        """Say what a teacher's signs mean for this method beyond what its declarations say."""
        return ()

    @property
    def last_phase(self) -> Phase:
        """Return what a step ends with."""
        return "student" if "student" in self.roles else "synthesis"

    def updates_per_step(self, role: str) -> int:
        """Return how often the network of that role is updated in a step that updates it."""
        if role == "student":
            return self._student_updates_per_step
        return max(1, self.updaters[role].total_steps // self.context.steps)

    @property
    def images_per_step(self) -> int:
        """Return how many images all workers together make or take in the step to come."""
        return self._images_per_step

    @abstractmethod
    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Advance by one step of the paper's algorithm box and return its scalars."""

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return synthetic images (N, C, H, W) in network-input space, the same on every worker.

        ``seed`` must come from outside training's own noise, so the images are held out.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no images")

    def begin_step(self) -> int:
        """Count the step and seed torch's own generator (dropout) by (seed, rank, step); return the index."""
        index = self.steps_done
        torch.manual_seed(mix(self.context.seed, self.world.rank, index))
        self.steps_done += 1
        return index

    def state_dict(self) -> dict[str, Any]:
        """Return all that training has changed and all workers share, as tensors and plain numbers."""
        return {
            "steps_done": self.steps_done,
            "trained": {name: network.state_dict() for name, network in self.trained.items()},
            "updaters": {name: updater.state_dict() for name, updater in self.updaters.items()},
        }

    def checkpoint_bytes(self) -> int:
        """Return about how many bytes ``state_dict``, and the shards of all workers, take amid the training."""
        networks = (tensor for network in self.trained.values() for tensor in network.state_dict().values())
        weights: int = sum(tensor.nbytes for tensor in networks)
        return weights + sum(updater.state_bytes() for updater in self.updaters.values())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.steps_done = state["steps_done"]
        for name, network in self.trained.items():
            network.load_state_dict(state["trained"][name])
        for name, updater in self.updaters.items():
            updater.load_state_dict(state["updaters"][name])


class ShardedMethod(Method):
    """A method whose workers hold what others do not; each writes its own part of the checkpoint."""

    @abstractmethod
    def shard(self) -> dict[str, Tensor]:
        """Return what this worker alone holds, by names that no other worker uses: for the checkpoint."""

    @abstractmethod
    def load_shard(self, parts: Mapping[str, Tensor]) -> None:
        """Take what is this worker's from all workers' ``shard`` (read lazily); called after ``load_state_dict``.

        There may be more or fewer workers than there were.
        """


class BankMethod(Method):
    """A method whose product is a bank of generators, each written when it is finished, by a worker that trained it."""

    @property
    @abstractmethod
    def milestone(self) -> bool:
        """Tell whether generators have just been finished that should be kept now; all workers agree."""

    @property
    def progress(self) -> float:
        """Return the per cent of their steps that the generators in training have behind them; all workers agree."""
        return 100 * self.steps_done / self.total_steps

    def class_images(self, each: int, seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield images (N, C, H, W) of the generators in training and the classes (N,) that they are for, by batches.

        All workers together yield about ``each`` images of every class, a worker those of its own generators: none
        where it has none. The classes are None for generators that are given none, and then there are not more than
        ``JUDGED`` images. ``seed`` is as for ``sample``.
        """
        images = self.sample(min(JUDGED, each * self.context.spec.num_classes), seed)
        yield images[self.world.rank :: self.world.size], None

    @abstractmethod
    def products(self) -> dict[str, dict[str, Tensor]]:
        """Return what this worker finished at a milestone: the tensors of each generator by its file's name."""

    @abstractmethod
    def products_manifest(self) -> dict[str, Any]:
        """Return what a reader of the bank must know, as plain data."""


class PoolMethod(Method):
    """A method whose product is a pool of images: written as they are made, once, beside the checkpoints.

    A checkpoint names the files that count, and no file is written again: what a run has made so far costs its next
    report nothing. A finished run's images are a synthetic set for others (``bank: {run: ..., images: ...}``).
    """

    @classmethod
    @abstractmethod
    def images_made(cls, config: Any, steps: int, global_batch: int) -> int:
        """Return how many images a run of so many steps makes: all are on the disk in the end."""

    @classmethod
    def images_held(cls, config: Any, steps: int, global_batch: int) -> int:
        """Return how many of them are in memory at the most, of all workers together."""
        return cls.images_made(config, steps, global_batch)

    @property
    @abstractmethod
    def image_bytes(self) -> int:
        """Return how many bytes an image takes, in memory and on the disk, with what is kept of it."""

    @abstractmethod
    def new_images(self) -> PoolPart | None:
        """Return the images that this worker made since the last call, or since ``load_images``; None for none."""

    @abstractmethod
    def load_images(self, saved: SavedImages) -> None:
        """Take the images of all workers up to the checkpoint; called after ``load_state_dict``.

        There may be more or fewer workers than there were.

        Raises:
            ValueError: if some are missing.
        """


def at_milestone(method: Method) -> bool:
    """Tell whether the method has just finished something that should be kept now."""
    return isinstance(method, BankMethod) and method.milestone


def stream_teacher_logits(batch: Batch, teacher: Callable[[Tensor], tuple[Tensor, Tensor]], world: World) -> Tensor:
    """Return the teacher's logits of a stream's batch, float32 (B, K): those known beforehand, or asked for now."""
    if batch.teacher_logits is not None:
        return batch.teacher_logits
    with world.autocast(), torch.no_grad():
        logits, _ = teacher(batch.images)
    return logits.float()
