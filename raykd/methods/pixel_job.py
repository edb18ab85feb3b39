"""One batch of images whose pixels are the parameters: a job of `raykd.methods.pixel_inversion`, from noise to images.

All that is drawn depends on (seed, job, iteration) alone, so the images are the same on whatever worker, and after
whatever interruption. Shapes: B images of the job, C channels, K classes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raykd import losses
from raykd.config.base import Config
from raykd.config.optim import Optimizer
from raykd.data.augment import crop_resized
from raykd.distributed.updater import Updater
from raykd.distributed.world import World, mix
from raykd.errors import UsageError
from raykd.methods.base import MethodContext
from raykd.methods.inversion import at_least_float32, hit_rate
from raykd.models.moments import Moments, MomentTeacher
from raykd.models.teacher import Teacher

_PIXELS, _VIEW = 21, 22  # kinds of draws from one seed


class Crop(Config):
    """The part of an image that the teacher is shown, enlarged to its input: see ``crop_resized``."""

    schedule: Literal["none", "fixed", "curriculum"] = Field(
        default="none",
        description="curriculum: the least share of the area falls from 1 to 'smallest' by half a cosine",
    )
    smallest: float = Field(default=0.08, gt=0, le=1, description="share of the area that is shown at least")
    until: float = Field(default=1.0, gt=0, le=1, description="share of the iterations in which a curriculum falls")
    per: Literal["batch", "image"] = Field(default="batch", description="one part for a batch, as published, or each")

    def least_area(self, progress: float) -> float:
        """Return the least share of the area at a share of the iterations, 0 to 1."""
        if self.schedule != "curriculum" or progress >= self.until:
            return self.smallest
        return self.smallest + (1 - self.smallest) * (1 + math.cos(math.pi * progress / self.until)) / 2


class Coarse(Config):
    """Iterations in which the teacher is shown fewer pixels, each the average of ``pooling`` x ``pooling`` of them."""

    pooling: int = Field(gt=1, description="pixels of a side that become one")
    iterations: int = Field(gt=0, description="how long")


class PixelConfig(Config):
    """The loop over pixels and its objective; the symbols are those of `raykd.methods.pixel_inversion`."""

    pixel_optim: Optimizer = Field(description="begins anew with every resolution")
    coarse: tuple[Coarse, ...] = Field(
        default=(), description="resolutions before the full one, whose iterations follow"
    )
    class_weight: float = Field(default=1.0, ge=0, description="of the class that an image is to show")
    moment_weight: float = Field(default=0.01, ge=0, description="of BatchNorm moments; 0 needs no BatchNorm")
    first_moment_factor: float = Field(default=1.0, ge=0, description="of the first BatchNorm layer's moments")
    tv_weight: float = Field(default=0.0, ge=0, description="of neighbouring pixels being alike")
    l2_weight: float = Field(default=0.0, ge=0, description="of small pixel values")
    crop: Crop = Field(default=Crop(), description="parts of the images that the teacher is shown")
    flip: bool | None = Field(
        default=None, description="mirror the batch by chance; left out: where mirrored images keep their class"
    )
    roll: int = Field(default=0, ge=0, description="largest shift in pixels of the full resolution, one for the batch")
    roll_from: Literal["both", "one"] = Field(
        default="both", description="sides that it comes from; one: down and right"
    )
    clip: bool = Field(default=True, description="to what pixels there can be, after each step")
    keep: Literal["last", "best"] = Field(
        default="last", description="best: of each image the pixels of the lowest loss that is its own, without moments"
    )


class Stage(NamedTuple):
    """A resolution: the iterations from ``first`` on, so many of them, and the teacher that is shown such images."""

    pooling: int
    first: int
    iterations: int
    teacher: MomentTeacher | Teacher
    forward: Callable[..., Any]
    targets: Moments


def plan_stages(config: PixelConfig, context: MethodContext) -> list[Stage]:
    """Return the resolutions in order; the iterations of the context are those of a job.

    Raises:
        UsageError: if the teacher, or the number of iterations, does not suit the configuration.
    """
    spec, teacher = context.spec, context.networks["teacher"]
    assert isinstance(teacher, Teacher)
    coarse = sum(stage.iterations for stage in config.coarse)
    if coarse >= context.steps:
        raise UsageError(
            f"method.coarse takes {coarse} of the {context.steps} iterations of schedule.steps, so that none is left "
            f"for the full resolution; set schedule.steps to more than {coarse}"
        )
    stages: list[Stage] = []
    first = 0
    for stage in (*config.coarse, None):
        pooling, iterations = (1, context.steps - first) if stage is None else (stage.pooling, stage.iterations)
        if spec.size % pooling:
            raise UsageError(f"method.coarse pools {pooling} x {pooling} pixels, which do not divide {spec.size}")
        shown = teacher if pooling == 1 else Teacher(teacher.network, channels=spec.channels, size=spec.size // pooling)
        matching = MomentTeacher(shown) if config.moment_weight else shown
        targets = matching.running() if isinstance(matching, MomentTeacher) else []
        stages.append(Stage(pooling, first, iterations, matching, context.compiler(matching), targets))
        first += iterations
    return stages


class PixelJob:
    """A batch of images on its way, one iteration at a time.

    Attributes:
        number: of the job.
        iteration: how many are done.
        labels: class of each image, int64 (B,), on the device.
        updater: the optimizer of the present resolution.
    """

    def __init__(self, number: int, labels: Tensor, stages: list[Stage], config: PixelConfig, context: MethodContext):
        """Draw the noise that the images begin as, (B, C, H, W)."""
        spec, device = context.spec, context.world.device
        self.number, self.iteration, self.labels = number, 0, labels.to(device, non_blocking=True)
        self._stages, self._config, self._context = stages, config, context
        generator = Generator().manual_seed(mix(context.seed, _PIXELS, number))
        noise = torch.randn(len(labels), spec.channels, spec.size, spec.size, generator=generator)
        self._pixels = nn.Parameter(noise.to(device, non_blocking=True))
        black, white = torch.zeros(spec.channels, 1, 1), torch.ones(spec.channels, 1, 1)
        self._range = tuple(spec.normalise(end).to(device, non_blocking=True) for end in (black, white))
        self._best: tuple[Tensor, Tensor] | None = None
        self.updater = self._new_updater(stages[0])

    def advance(self) -> dict[str, Tensor]:
        """Make one iteration; return the terms of the loss without their weights, and the teacher's hit rate."""
        stage, config = self._stage_of(self.iteration), self._config
        if self.iteration == stage.first > 0:
            finished, self.updater = self.updater, self._new_updater(stage)
            self.inherit(finished)
        view = self.view(stage)
        with self._context.world.autocast():
            logits, _, *moments = stage.forward(view)
        view, logits = at_least_float32(view), at_least_float32(logits)
        if config.keep == "best" and stage.pooling == 1:
            self._keep_best(view.detach(), logits.detach())
        label = F.cross_entropy(logits, self.labels)
        matching = self._distance(moments[0], stage.targets) if moments else torch.zeros_like(label)
        # Without a weight a term is only looked at.
        variation = losses.total_variation(view if config.tv_weight else view.detach())
        l2 = losses.image_l2(view if config.l2_weight else view.detach())
        self.updater.minimise(
            config.class_weight * label
            + config.moment_weight * matching
            + config.tv_weight * variation
            + config.l2_weight * l2
        )
        if config.clip:
            with torch.no_grad():
                self._pixels.clamp_(*self._range)
        self.iteration += 1
        terms = {"class": label, "moments": matching, "total_variation": variation, "l2": l2}
        figures = {f"loss/{name}": value.detach() for name, value in terms.items()}
        return {**figures, "teacher/hit": hit_rate(logits.detach(), self.labels)}

    def view(self, stage: Stage) -> Tensor:
        """Return what the teacher is shown of the images in the iteration to come, (B, C, size, size) of the stage."""
        config, crop = self._config, self._config.crop
        images: Tensor = self._pixels
        if stage.pooling > 1:
            images = F.avg_pool2d(images, stage.pooling)
        generator = Generator().manual_seed(mix(self._context.seed, _VIEW, self.number, self.iteration))
        down, right, heads = torch.rand(3, generator=generator).tolist()
        if crop.schedule != "none":
            parts = len(images) if crop.per == "image" else 1
            least = crop.least_area(self.iteration / self._context.steps)
            images = crop_resized(images, torch.rand(4, parts, generator=generator), least)
        flips = self._context.mirrored if config.flip is None else config.flip
        if flips and heads < 0.5:
            images = images.flip(-1)
        most = config.roll // stage.pooling
        least_roll = -most if config.roll_from == "both" else 0
        shifts = [least_roll + int(draw * (most - least_roll + 1)) for draw in (down, right)]
        return images.roll(shifts, dims=(2, 3)) if any(shifts) else images

    def images(self) -> Tensor:
        """Return the images as they are, or at their best, (B, C, H, W) in network-input space."""
        return self._pixels.detach() if self._best is None else self._best[1]

    def inherit(self, before: Updater) -> None:
        """Take over that gradients were refused before, so that who looks at this optimizer alone will know."""
        self.updater.refused += before.refused
        self.updater.at_fault += before.at_fault

    def shard(self) -> dict[str, Tensor]:
        """Return all that changes, by names that no other job uses."""
        state = {"pixels": self._pixels.detach()}
        state |= {f"optim/{kind}": value for kind, value in self.updater.state_dict()["optimizer"].get(0, {}).items()}
        if self._best is not None:
            state |= {"best/loss": self._best[0], "best/pixels": self._best[1]}
        return {f"{self.number:07d}/{name}": value for name, value in state.items() if isinstance(value, Tensor)}

    def load(self, parts: Mapping[str, Tensor], iteration: int) -> None:
        """Go on after ``iteration`` iterations from what ``shard`` returned."""
        device, first = self._context.world.device, f"{self.number:07d}/"
        state = {name.removeprefix(first): parts[name].to(device) for name in parts if name.startswith(first)}
        with torch.no_grad():
            self._pixels.copy_(state["pixels"])
        if "best/loss" in state:
            self._best = state["best/loss"], state["best/pixels"]
        self.iteration, stage = iteration, self._stage_of(iteration - 1)
        self.updater = self._new_updater(stage)
        optim = {name.removeprefix("optim/"): value for name, value in state.items() if name.startswith("optim/")}
        self.updater.load_state_dict({"step": iteration - stage.first, "optimizer": {0: optim} if optim else {}})

    def _stage_of(self, iteration: int) -> Stage:
        found: Stage = next(stage for stage in reversed(self._stages) if stage.first <= iteration)
        return found

    def _new_updater(self, stage: Stage) -> Updater:
        world = self._context.world
        # No other worker has a gradient of these pixels.
        alone = World.alone(world.device, world.precision)
        return Updater([self._pixels], self._config.pixel_optim, alone, stage.iterations)

    def _distance(self, moments: Moments, targets: Moments) -> Tensor:
        first = losses.bn_statistics(moments[:1], targets[:1])
        return losses.bn_statistics(moments, targets) + (self._config.first_moment_factor - 1) * first

    def _keep_best(self, view: Tensor, logits: Tensor) -> None:
        """Keep the pixels of those images whose own loss is the lowest so far; they are those before the step."""
        config = self._config
        loss = config.class_weight * F.cross_entropy(logits, self.labels, reduction="none")
        loss = loss + config.tv_weight * losses.total_variation(view, reduction="none")
        loss = loss + config.l2_weight * losses.image_l2(view, reduction="none")
        pixels = self._pixels.detach()
        if self._best is None:
            self._best = loss, pixels.clone()
            return
        better = loss < self._best[0]
        # New tensors: the optimizer goes on writing into those of the pixels.
        kept = torch.where(better.view(-1, 1, 1, 1), pixels, self._best[1])
        self._best = torch.where(better, loss, self._best[0]), kept
