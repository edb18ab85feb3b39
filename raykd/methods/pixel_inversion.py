"""Images whose pixels are the parameters: DeepInversion, SRe2L and CDA, by one loop.

    x ~ N(0, I)      repeat:   v = view(x)      t = T(v), with the moments of its BatchNorm inputs
    x <- clip(x - Adam of  CE(t, y) + a (L_mom + (f - 1) L_1) + tv TV(v) + l2 |v|_2)

Symbols: a = moment_weight, L_mom = sum_l |m_l - mu_l|_2 + |v_l - var_l|_2 of `raykd.losses.bn_statistics`, L_1 its term
of the first layer and f = first_moment_factor; tv = tv_weight and l2 = l2_weight in the units of
`raykd.methods.inversion`. The teacher alone is asked, and no student takes part: the images are the product, on which
any student trains afterwards (``bank: {run: ..., images: ...}``). A view is the batch, pooled to fewer pixels if the
resolution is a coarse one, cropped, mirrored and rolled, each once for the whole batch.

* DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795): rolls to both sides; at 224 pixels first coarse ones, f 10.
* SRe2L (Yin, Xing, Shen, NeurIPS 2023, arXiv 2306.13092): no prior on pixels; a part of 8 to 100 % of the area, drawn
  in each iteration, is enlarged to the whole; rolls down and right.
* CDA (Yin, Shen, TMLR 2024, arXiv 2311.18838): the least area of that part falls from 1 to 0.08, ``crop.schedule``.

A job is a batch of ``schedule.global_batch`` images in the order of their numbers, ``schedule.steps`` iterations long;
image i is of class i modulo K. So a batch of 100 images of 1000 classes has 100 classes once each, and one of 256
images of 10 classes each of them 25 or 26 times. The moments are those of a job, so its size is part of the recipe.
Jobs need nothing of each other: each worker is at one of its own, and a step of the run is one iteration of each.

Where we differ: the images are rounded to 8 bits, not cut off; the parts of a crop are not rounded to whole pixels; the
"best" images of DeepInversion's code are the last ones, since later steps write into them, so ``keep: last`` is what
was published. ``keep: best`` is meant as they meant it, but for the moments, which no single image has.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from raykd.data.image_pool import PoolPart, SavedImages, require_known_pixels, to_pixels
from raykd.methods.base import MethodContext, Metrics, PoolMethod, ShardedMethod
from raykd.methods.cost import CostAxis, PlannedRun, by_images_of_jobs
from raykd.methods.jobs import JobQueues
from raykd.methods.kept_images import KeptImages
from raykd.methods.pixel_job import PixelConfig, PixelJob, plan_stages
from raykd.methods.signs import Remark, TeacherSigns
from raykd.spec import Batch

_METRICS = ("loss/class", "loss/moments", "loss/total_variation", "loss/l2", "teacher/hit")


class PixelInversionConfig(PixelConfig):
    """The loop of a job, and how many images there are to be."""

    name: Literal["pixel_inversion"]
    images: int = Field(gt=0, description="how many, of all classes in turn")


class PixelInversion(ShardedMethod, PoolMethod):
    """Every worker turns noise into images, one batch after the other."""

    config = PixelInversionConfig
    roles = ("teacher",)
    makes_images = True
    sharded_by = "jobs"

    def __init__(self, config: PixelInversionConfig, context: MethodContext) -> None:
        """Deal the jobs.

        Raises:
            UsageError: if the teacher, or the number of iterations, does not suit the configuration.
        """
        super().__init__(config, context)
        require_known_pixels(context.spec, "pixel_inversion")
        self._config = config
        self._stages = plan_stages(config, context)
        self._jobs = -(-config.images // context.global_batch)
        self._made: list[PoolPart] = []
        self._kept = KeptImages(context.seed, context.world)
        self._deal(dict.fromkeys(range(self._jobs), context.steps))

    @classmethod
    def needs_statistics(cls, config: Any | None) -> bool:
        """Return whether moments are matched."""
        return config is not None and config.moment_weight > 0

    @classmethod
    def images_of(cls, config: Any, steps: int, global_batch: int) -> int:
        """Return in how many iterations of an image its pixels change."""
        return int(config.images * steps)

    @classmethod
    def images_made(cls, config: Any, steps: int, global_batch: int) -> int:
        """Return how many images there are in the end."""
        return int(config.images)

    @classmethod
    def images_held(cls, config: Any, steps: int, global_batch: int) -> int:
        """Return all, at the most: those of a worker's jobs that ended since the last report."""
        return int(config.images)

    @property
    def image_bytes(self) -> int:
        """Return the bytes of an image's pixels, label and number."""
        spec = self.context.spec
        return spec.channels * spec.size**2 + 16

    @classmethod
    def cost_axis(cls, config: Any, run: PlannedRun) -> CostAxis:
        """Return the images of a job."""
        return by_images_of_jobs(run)

    @classmethod
    def judge_teacher(cls, signs: TeacherSigns) -> Iterable[Remark]:
        """Tell what images are without BatchNorm layers whose statistics they could match."""
        if signs.batch_norms:
            yield Remark("pro", f"{signs.batch_norms} BatchNorm layers whose statistics images can match")
        else:
            yield Remark("without", f"moments, for real-looking images ({signs.no_batch_norm}): method.moment_weight=0")

    @property
    def images_per_step(self) -> int:
        """Return how many images all workers together are at in the step to come."""
        return sum(len(self._rows(job)) for job in self._queues.current if job is not None)

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Make one iteration of this worker's job, beginning the next one where one has ended."""
        self.begin_step()
        current = self._queues.current
        own = current[self.world.rank]
        values = {name: torch.zeros((), device=self.world.device) for name in _METRICS}
        if own is not None:
            job = self._begun(own)
            values = job.advance()
            self.updaters["pixels"] = job.updater
        if own in self._queues.advance():
            # Waits for a device, once in all the iterations of a job: what is finished is kept in main memory.
            pixels = to_pixels(job.images(), self.context.spec).cpu()
            self._made.append(PoolPart(pixels, job.labels.cpu(), torch.tensor(self._rows(own))))
            self._kept.add(self._made[-1:])
        # The engine averages over workers; weighted so, what comes out is the mean over the jobs of now.
        weight = (own is not None) * self.world.size / sum(job is not None for job in current)
        left = torch.full((), float(len(self._queues.left)), device=self.world.device)
        return {**{name: value * weight for name, value in values.items()}, "jobs_left": left}

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return images of a sample of those that are finished, the same on every worker; every worker must call it.

        Before any is, they are those that worker 0 is at. Where they are too few each comes again.
        """
        pixels, spec = self._kept.pixels(), self.context.spec
        if pixels is None:
            job = self._job or self._new_job(0)
            shown = to_pixels(job.images(), spec)
            unfinished = torch.zeros(
                self.context.global_batch, *shown.shape[1:], dtype=torch.uint8, device=shown.device
            )
            unfinished[: len(shown)] = shown
            pixels = self.world.gather(unfinished)[0, : len(self._rows(0))].cpu()
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(pixels), generator=generator) for _ in range(-(-num_images // len(pixels)))]
        images = pixels[torch.cat(orders)[:num_images]].to(self.world.device)
        return spec.normalise(images.float() / 255)

    def new_images(self) -> PoolPart | None:
        """Return the images of this worker's jobs that were done since the last call."""
        made, self._made = self._made, []
        if not made:
            return None
        pixels, labels, numbers, _ = zip(*made, strict=True)
        return PoolPart(torch.cat(pixels), torch.cat(labels), torch.cat(numbers))

    def load_images(self, saved: SavedImages) -> None:
        """See to it that the images of all jobs that are done are there; none is needed for what is left.

        Raises:
            ValueError: if some are missing.
        """
        missing = {row for job in range(self._jobs) if job not in self._queues.left for row in self._rows(job)}
        for numbers in saved.numbers():
            missing.difference_update(numbers.tolist())
        if missing:
            raise ValueError(f"{len(missing)} of its images are missing")
        self._kept.add_saved(saved)

    def state_dict(self) -> dict[str, Any]:
        """Return how many iterations are left of every job that is not done."""
        return {"steps_done": self.steps_done, "left": dict(self._queues.left)}

    def checkpoint_bytes(self) -> int:
        """Return the bytes of the images that all workers are at, and of their optimizers."""
        spec, config = self.context.spec, self._config
        image = 4 * spec.channels * spec.size**2
        copies = 1 + config.pixel_optim.state_tensors + (config.keep == "best")
        return self.images_per_step * image * copies

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Deal the rest anew: to the workers of now, those that have begun first."""
        self.steps_done = state["steps_done"]
        begun = sorted(state["left"].items(), key=lambda item: (item[1] == self.context.steps, item[0]))
        self._deal(dict(begun))

    def shard(self) -> dict[str, Tensor]:
        """Return this worker's jobs that have begun and are not done."""
        job = self._job
        return {**self._waiting, **(job.shard() if job is not None and job.number in self._queues.left else {})}

    def load_shard(self, parts: Mapping[str, Tensor]) -> None:
        """Take this worker's jobs that have begun, whoever was at them before."""
        own = set(self._queues.of(self.world.rank))
        self._waiting.update({name: parts[name] for name in parts if int(name.split("/")[0]) in own})

    def _deal(self, left: dict[int, int]) -> None:
        self._queues = JobQueues(left, self.world.size)
        self.total_steps = self.steps_done + self._queues.steps
        self._job: PixelJob | None = None
        self._waiting = dict[str, Tensor]()
        self.updaters.clear()

    def _begun(self, number: int) -> PixelJob:
        """Return this worker's job, begun or taken up again if it is not the one of the step before."""
        if self._job is not None and self._job.number == number:
            return self._job
        before, self._job = self._job, self._new_job(number)
        done = self.context.steps - self._queues.left[number]
        if done:
            self._job.load(self._waiting, done)
            self._waiting = {name: part for name, part in self._waiting.items() if int(name.split("/")[0]) != number}
        if before is not None:
            self._job.inherit(before.updater)
        return self._job

    def _new_job(self, number: int) -> PixelJob:
        labels = torch.tensor(self._rows(number)) % self.context.spec.num_classes
        return PixelJob(number, labels, self._stages, self._config, self.context)

    def _rows(self, job: int) -> range:
        batch = self.context.global_batch
        return range(job * batch, min((job + 1) * batch, self._config.images))
