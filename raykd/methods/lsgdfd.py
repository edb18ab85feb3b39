"""LS-GDFD: large-scale generative data-free distillation (Luo et al., 2020, arXiv 2012.05578): the generators.

    for every class c:   z ~ N(0, I)      x = G_c(z)      t = T(x), with the moments (m, v) of its BatchNorm inputs
    G_c <- CE(t, c) + a L_mom(m, v) + tv TV(x) + l2 |x|_2

Symbols: a = moment_weight; L_mom and the units of tv and l2 are in `raykd.methods.inversion`. The generators are
independent, one per class, which is what keeps a bank from collapsing to few kinds of images. The student is trained
afterwards, by another method, on the finished bank.

``statistics`` says which moments are the target:

* ``class``: those of the inputs that images of class c alone cause, measured from some images per class beforehand
  (the paper's way on ImageNet: 100 images each). Members do not influence each other, so they are trained in waves of
  as many as fit the memory, for any number of classes. Not strictly data-free: it needs those measurements.
* ``global``: the running statistics stored in the teacher. Only images of *all* classes together can have these, so
  all members train at once and the moments are those of all workers' images, gradients included. Strictly data-free,
  for as many classes as fit the workers at once.

Where we differ: noise depends on (seed, class, step) only, and the loss is the sum over members of their own means
(global: the moments count once per member), so neither a member's images nor its gradients depend on which worker and
wave its class is in. The generators' running statistics are averaged anew at the end of a wave, over
``settle_passes`` batches: the student phase mixes classes, and therefore samples by them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from raykd.errors import UsageError
from raykd.generators import GeneratorConfig, member_parameters
from raykd.generators.waves import Wave, plan_waves
from raykd.methods.base import BankMethod, MethodContext, Metrics, ShardedMethod
from raykd.methods.cost import CostAxis, PlannedRun, by_images_of_members, by_members
from raykd.methods.inversion import InversionConfig, Objective, bank_manifest, hit_rate
from raykd.methods.members import LATENTS, Members, build_bank, members_per_wave, sample_bank, sample_classes
from raykd.methods.signs import Remark, TeacherSigns
from raykd.models.moments import merged
from raykd.spec import Batch

_LARGE = 128
_MANY_CLASSES = 20
_METRICS = ("loss/class", "loss/moments", "loss/total_variation", "loss/l2", "teacher/hit")


class LsgdfdConfig(InversionConfig):
    """One generator per class; see the module's text for ``statistics``."""

    name: Literal["lsgdfd"]
    statistics: Literal["class", "global"] = Field(
        default="global", description="whose moments: by class, which takes images or `calibration`, or the stored ones"
    )
    large_latent: bool = Field(default=False, description=f"allow a latent_dim above {_LARGE}")

    @model_validator(mode="after")
    def _small_members(self) -> "LsgdfdConfig":
        if not self.large_latent and self.generator.latent_dim > _LARGE:
            raise ValueError(
                f"generator.latent_dim is {self.generator.latent_dim}: with one generator per class, the first layer "
                f"and its optimizer state outgrow all else; use at most {_LARGE}, or say large_latent: true"
            )
        return self


class Lsgdfd(ShardedMethod, BankMethod):
    """A generator per class learns from the teacher, this worker's share of a wave at a time."""

    config = LsgdfdConfig
    roles = ("teacher",)
    makes_images = True
    sharded_by = "classes"
    members: Members | None
    _waiting: dict[str, Tensor]

    def __init__(self, config: LsgdfdConfig, context: MethodContext) -> None:
        """Plan the waves.

        Raises:
            UsageError: if the teacher, its statistics or the workers do not suit the configuration.
        """
        super().__init__(config, context)
        classes = context.spec.num_classes
        assert context.global_batch % classes == 0, "checked by the engine"
        self._config = config
        self._images = context.global_batch // classes
        self._objective = Objective(config, context)
        self._global = config.statistics == "global"
        self._objective.targets(None if self._global else range(classes))  # refuses early
        self._capacity = self._members_per_wave()
        self._wave = 0
        self._plan(dict.fromkeys(range(classes), 0))

    @classmethod
    def cost_axis(cls, config: Any, run: PlannedRun) -> CostAxis:
        """Return the members that a worker trains at once, or their images where all members must train at once."""
        return (by_images_of_members if config.statistics == "global" else by_members)(run)

    @classmethod
    def judge_teacher(cls, signs: TeacherSigns) -> Iterable[Remark]:
        """Tell what a generator for each class costs, and what statistics by class want."""
        config = GeneratorConfig()
        parts = 1 << config.upsamplings
        each = member_parameters(config, signs.channels, -(-signs.size // parts) * parts)
        cost = f"a generator for each of {signs.classes:,} classes: {signs.classes * each / 1e6:,.0f} M parameters"
        yield Remark("con" if signs.classes > _MANY_CLASSES else "pro", cost)
        if signs.train_missing:
            yield Remark("without", "statistics by class, which take images (calibration): method.statistics=global")
        else:
            yield Remark("pro", "images for statistics by class are there (calibration)")

    @classmethod
    def needs_statistics(cls, config: Any | None) -> bool:
        """Return true: their moments are what images are made for."""
        return True

    @property
    def images_per_step(self) -> int:
        """Return how many images all members of the wave to come, or going on, make in a step."""
        left = self._waves[1:] if self.milestone else self._waves
        return self._images * len(left[0].classes) if left else 0

    @property
    def milestone(self) -> bool:
        """Tell whether the last step was the last of its wave."""
        return bool(self._waves) and self._progress[self._waves[0].classes[0]] == self.context.steps

    @property
    def progress(self) -> float:
        """Return the per cent of their steps that the members of the present wave have behind them."""
        return 100 * self._progress[self._waves[0].classes[0]] / self.context.steps if self._waves else 100.0

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Update this worker's members of the wave, beginning the next wave where one has ended."""
        if self.milestone:
            del self._waves[0]
            self._wave, self.members = self._wave + 1, None
            self.updaters.clear()
        wave = self._waves[0]
        share, index = self._share(wave), self._progress[wave.classes[0]]
        if share and self.members is None:
            self._start_wave(share, index)
        self.begin_step()
        zeros = [torch.zeros((), device=self.world.device) for _ in _METRICS]
        values = self._update(self.members, index) if self.members else zeros
        self._progress.update(dict.fromkeys(wave.classes, index + 1))
        # The engine averages over workers; weighted so, what comes out is the mean over the wave's members.
        weight = len(share) * self.world.size / len(wave.classes)
        metrics = {name: value.detach() * weight for name, value in zip(_METRICS, values, strict=True)}
        return {**metrics, "wave": torch.full((), float(self._wave), device=self.world.device)}

    def _update(self, members: Members, index: int) -> list[Tensor]:
        objective, count = self._objective, len(members.bank.classes)
        with self.world.autocast():
            images = members.generate(members.latents(LATENTS, index))
        shifted, logits, moments = objective.teacher_forward(images, index, count)
        if self._global:
            moments = merged(moments, self.world.mean)
        terms = objective.terms(shifted, F.cross_entropy(logits, members.labels), moments, self._targets)
        # The adjoint of world.mean is made for gradients averaged over workers; these have one owner each.
        rows = self.context.spec.num_classes / self.world.size if self._global else count
        moment_loss = rows * self._config.moment_weight * terms.moments
        members.updater.minimise(count * objective.without_moments(terms) + moment_loss)
        if index + 1 == self.context.steps:
            members.refresh_running_stats(self._config.settle_passes)
        return [*terms, hit_rate(logits, members.labels)]

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return images of this worker's present members in turn, by their running statistics."""
        bank = self.members.bank if self.members else build_bank((0,), self._config, self.context)
        return sample_bank(bank, bank.classes, num_images, seed, self.world)

    def class_images(self, each: int, seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield images of this worker's present members, by their running statistics."""
        if self.members:
            yield from sample_classes(self.members.bank, self.members.bank.classes, each, seed, self.world)

    def products(self) -> dict[str, dict[str, Tensor]]:
        """Return this worker's members of the wave that has just ended."""
        bank = self.members.bank if self.members and self.milestone else None
        return {f"class_{cls:05d}": bank.member_state(cls) for cls in bank.classes} if bank else {}

    def products_manifest(self) -> dict[str, Any]:
        """Return what the bank consists of."""
        return bank_manifest(self.context, self._config, list(range(self.context.spec.num_classes)))

    def state_dict(self) -> dict[str, Any]:
        """Return how far every member is."""
        return {"steps_done": self.steps_done, "wave": self._wave, "progress": dict(self._progress)}

    def checkpoint_bytes(self) -> int:
        """Return the bytes of all members of the largest wave, and of their optimizers."""
        spec, config = self.context.spec, self._config
        member = 4 * member_parameters(config.generator, spec.channels, spec.size)
        members = max((len(wave.classes) for wave in self._waves), default=0)
        return members * member * (1 + config.generator_optim.state_tensors)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Plan the rest anew: for the workers and the memory of now, whatever they were."""
        self.steps_done, self._wave = state["steps_done"], state["wave"]
        self._plan(dict(state["progress"]))

    def shard(self) -> dict[str, Tensor]:
        """Return this worker's members that have begun and are not finished."""
        return {**self._waiting, **({} if self.members is None or self.milestone else self.members.shard())}

    def load_shard(self, parts: Mapping[str, Tensor]) -> None:
        """Take this worker's members that have begun, whoever trained them before.

        Where there is less room than before, some of them have to wait for a later wave.
        """
        started = {cls for wave in self._waves if wave.done for cls in self._share(wave)}
        self._waiting = {name: parts[name] for name in parts if int(name.split("/")[0]) in started}
        if started and (share := self._share(self._waves[0])):
            self._start_wave(share, self._waves[0].done)

    def _plan(self, progress: dict[int, int]) -> None:
        self._progress = progress
        self._waves = plan_waves(progress, self.context.steps, self.world.size, self._capacity)
        self.total_steps = self.steps_done + sum(self.context.steps - progress[w.classes[0]] for w in self._waves)
        self.members = None
        self.updaters.clear()
        self._waiting = {}

    def _share(self, wave: Wave) -> tuple[int, ...]:
        return wave.share(self.world.rank, self.world.size)

    def _start_wave(self, share: tuple[int, ...], index: int) -> None:
        self.members = Members(share, self._images, self._config, self.context)
        self.updaters["generators"] = self.members.updater
        if index:
            self.members.load(self._waiting, index)
            self._waiting = {name: part for name, part in self._waiting.items() if int(name.split("/")[0]) not in share}
        self._targets = self._objective.targets(None if self._global else share)

    def _members_per_wave(self) -> int:
        if not self._global:
            return members_per_wave(self._config, self._images, self._objective.teacher, self.context)
        classes, workers, given = self.context.spec.num_classes, self.world.size, self.context.runtime.wave
        each = -(-classes // workers)
        if workers > classes or (given is not None and given < each):
            raise UsageError(
                f"method.statistics=global trains all {classes} generators at once, so each of {workers} workers must "
                f"have one and take its whole share ({each}), not waves of {given}; use fewer workers or larger waves, "
                "or method.statistics=class"
            )
        return each
