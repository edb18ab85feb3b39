"""Adversarial data-free distillation: a generator looks for images on which the student differs from the teacher.

One algorithm, whose switches give four published methods: DFAD (Fang et al. 2019, arXiv 1912.11006), ZSKT (Micaelli and
Storkey, NeurIPS 2019, arXiv 1905.09768), DFQ (Choi et al., CVPR workshops 2020, arXiv 2005.04136) and CuDFKD (Li et al.
2022, arXiv 2208.13648). One step is one round of the game, z ~ N(0, I), x = G(z), t = T(x), s = S(x), p = softmax(t):

    g times:  G <- a(n) D(s, t) + m L_mom(x) + o mean_i CE(t_i, argmax t_i) + b sum_c q_c ln q_c
    k times:  S <- v L(s, t) + w sum_l mean |att(S_l) - att(T_l)|^2

    D = -mean |t - s|  (l1),  -KL(T || S)  (kl),  or the latter over rows with argmax t_i = argmax s_i  (masked_kl)
    L =  mean |t - s|  (l1)  or  T^2 KL(t / T || s / T)  (kl)        q = mean_i softmax(t_i / T_b)
    L_mom = sum_l |m_l - mu_l| + |v_l - var_l|, moments of the teacher's BatchNorm inputs (`raykd.losses.bn_statistics`)
    a(n) = disagreement_weight + ramp.growth (clamp(n, ramp.begin N, ramp.end N) - ramp.begin N)
    v = (1 + e^-h) / (1 + e^(L - h)), h = self_paced.start + self_paced.growth u     (1 without self_paced)

Symbols: n the step of N, u the student's update, g = generator_updates, k = student_updates, m = moment_weight,
o = onehot_weight, b = balance_weight, T_b = balance_temperature, T = temperature, w = attention_weight; S_l and T_l are
feature maps of equal size (`raykd.models.stages`), att their attention. KL has T^2 of ``disagreement_temperature``.

    recipe    first      D, L              g : k   latents   beside it
    dfad_*    student    l1, l1            1 : 5   fresh     -
    zskt_*    generator  kl, kl            1 : 10  shared    w, clip_norm
    dfq_*     generator  kl, kl            1 : 10  fresh     m, o, b
    cudfkd_*  generator  masked_kl, l1     1 : 10  fresh     m, o, b with T_b = 20, ramp, self_paced

``latents: shared``: one z for all updates of a step; the student then learns k times from the same images, which are
made, and shown to the teacher, once. ``ema_generator`` and ``replay`` are those of `raykd.methods.generating`.

Units: nats; KL is summed over the C classes. ZSKT's code takes its mean over classes, so that its whole loss is ours
divided by C: its attention of 250 is 250 C here and its clipping at a norm of 5 is at 5 C; Adam does not see the rest.
DFQ's and CuDFKD's balance of 20 is in nats in their code too. l1 on logits is not bounded for G.

Where we differ from the authors' code: images are cut off from G's graph in S's updates (ZSKT: gradients that nobody
uses); CuDFKD's ramp grows every step, not once an epoch; learning rates fall by updates, not by epochs; generators
normalise by the batch always (DFQ and CuDFKD show the student what running statistics make); G's updates leave S's
running statistics alone (``student_statistics: clean``; ``remembered`` lets them in as DFAD and ZSKT do, ``running``
asks a student in evaluation mode as DFQ and CuDFKD do); DFAD's inner norms have an eps of 1e-5, ZSKT's too and no tanh
before the last, CuDFKD's generator is another DCGAN. With several workers q, the moments, v and clipping are those of
the global batch, while batch normalisation of G and S sees a worker's share.

CuDFKD's v is one number for a batch, as released: it modulates the rate (``self_paced.per: image`` weighs images).
"""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from raykd import losses
from raykd.config.base import Config
from raykd.config.optim import Adam, Optimizer
from raykd.errors import UsageError
from raykd.generators import STANDARDISED, Dcgan, Output, OutputRange, UnitGenerator, choose_output
from raykd.methods.base import OUTPUT_RANGE, MethodContext, Metrics
from raykd.methods.generating import GeneratingConfig, GeneratingMethod
from raykd.methods.signs import Remark, TeacherSigns
from raykd.models.moments import MomentTeacher, merged, statistics_kept
from raykd.models.stages import StageMaps, shared_stages
from raykd.spec import Batch, DataSpec


class RampConfig(Config):
    """An adversary that grows (CuDFKD)."""

    growth: float = Field(gt=0, description="of the disagreement's weight in each step")
    begin: float = Field(default=0.25, ge=0, le=1, description="share of the steps before the growth")
    end: float = Field(default=0.75, ge=0, le=1, description="share of the steps up to its end")

    @model_validator(mode="after")
    def _in_order(self) -> "RampConfig":
        if self.begin >= self.end:
            raise ValueError(f"ramp.begin {self.begin} must be below ramp.end {self.end}")
        return self


class SelfPacedConfig(Config):
    """A student that puts off what is too hard as yet (CuDFKD)."""

    start: float = Field(default=2.0, ge=0, description="the loss that is too hard at the beginning")
    growth: float = Field(default=1e-4, ge=0, description="of that loss in each of the student's updates")
    per: Literal["batch", "image"] = Field(default="batch", description="one weight for a batch, or one for each image")


class AdversarialConfig(GeneratingConfig):
    """Weights are in nats; see the module's text for the authors' units."""

    name: Literal["adversarial"]
    latent_dim: int = Field(default=256, gt=0, description="size of the noise that images are made from")
    generator_architecture: Literal["dcgan", "mosaic"] = Field(
        default="dcgan", description="DAFL's, whose output is standardised; or a sigmoid's pixels, then normalised"
    )
    generator_width: int = Field(default=128, gt=1, description="channels of the first maps")
    output_range: OutputRange = OUTPUT_RANGE
    generator_updates: int = Field(default=1, gt=0, description="in one step")
    student_updates: int = Field(default=5, gt=0, description="in one step")
    first: Literal["student", "generator"] = Field(default="student", description="who begins a step")
    latents: Literal["fresh", "shared"] = Field(default="fresh", description="for each update, or for a whole step")
    disagreement: Literal["l1", "kl", "masked_kl"] = Field(
        default="l1", description="what the generator looks for between student and teacher"
    )
    disagreement_weight: float = Field(default=1.0, ge=0, description="the adversary's, before its ramp")
    disagreement_temperature: float = Field(default=1.0, gt=0, description="of its kl")
    ramp: RampConfig | None = Field(default=None, description="an adversary that grows")
    moment_weight: float = Field(default=0.0, ge=0, description="of BatchNorm moments; above 0 the teacher needs them")
    onehot_weight: float = Field(default=0.0, ge=0, description="of the teacher's certainty")
    balance_weight: float = Field(default=0.0, ge=0, description="of classes being equally frequent")
    balance_temperature: float = Field(default=1.0, gt=0, description="T_b: of the answers that are balanced")
    student_loss: Literal["l1", "kl"] = Field(default="l1", description="between the logits, or T^2 KL")
    temperature: float = Field(default=1.0, gt=0, description="of the student's kl")
    attention_weight: float = Field(default=0.0, ge=0, description="of feature maps of equal size")
    self_paced: SelfPacedConfig | None = Field(default=None, description="a student that puts off what is too hard")
    student_statistics: Literal["clean", "remembered", "running"] = Field(
        default="clean", description="how the student normalises the generator's images in the generator's update"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of the gradients of either network")
    generator_optim: Optimizer = Field(default=Adam(name="adam", lr=1e-3), description="of the generator")

    @model_validator(mode="after")
    def _sound(self) -> "AdversarialConfig":
        weights = (self.disagreement_weight, self.moment_weight, self.onehot_weight, self.balance_weight)
        if not any(weights) and self.ramp is None:
            raise ValueError(
                "the generator has nothing to learn: give disagreement_weight, ramp, moment_weight, onehot_weight or "
                "balance_weight"
            )
        if self.generator_architecture == "mosaic" and self.generator_width % 4:
            raise ValueError(f"generator_architecture: mosaic needs a width divisible by 4, not {self.generator_width}")
        if self.latents == "shared" and self.replay is not None:
            raise ValueError(
                "latents: shared shows the student one batch all step long: leave out replay, or use fresh"
            )
        if self.generator_architecture == "mosaic" and self.output_range != "auto":
            raise ValueError(
                "generator_architecture: mosaic makes pixels by itself: leave out output_range, or use dcgan"
            )
        for loss, temperature in (("disagreement", "disagreement_temperature"), ("student_loss", "temperature")):
            if getattr(self, loss) == "l1" and getattr(self, temperature) != 1:
                raise ValueError(f"{loss}: l1 compares logits as they are: leave out {temperature}, or use kl")
        return self


class _Lesson(NamedTuple):
    """What the student learns from in an update: images, the teacher's logits (N, C), and its maps if they count."""

    images: Tensor
    logits: Tensor
    maps: list[Tensor]


class Adversarial(GeneratingMethod):
    """Generator and student play; the teacher judges."""

    config = AdversarialConfig

    def __init__(self, config: AdversarialConfig, context: MethodContext) -> None:
        """Build the generator and its updater; compile all networks.

        Raises:
            UsageError: if moments are to be matched and the teacher has no BatchNorm layer, or attention is to be
                transferred and no feature maps of teacher and student have the same size.
        """
        super().__init__(config, context, _build_generator(config, context.spec), config.generator_updates)
        self._config = config
        for updater in self.updaters.values():
            updater.clip_norm = config.clip_norm
        teacher, spec = context.networks["teacher"], context.spec
        if self.needs_statistics(config) and not teacher.batch_norms:
            raise UsageError(
                f"method.moment_weight is {config.moment_weight:g}, and the teacher has no BatchNorm layer with "
                "running statistics that images could match: set method.moment_weight=0 (as in the recipes dfad_* and "
                "zskt_*), or take a teacher with BatchNorm"
            )
        self._student, self._teacher = context.compiler(self.student), context.compiler(teacher)
        if config.moment_weight:
            moments = MomentTeacher(teacher)  # type: ignore[arg-type]
            self._running = moments.running()
            self._moments = context.compiler(moments)
        if config.attention_weight:
            of_teacher, of_student = shared_stages(teacher, self.student, (spec.channels, spec.size, spec.size))
            self._teacher_maps = context.compiler(StageMaps(teacher, of_teacher))
            self._student_maps = context.compiler(StageMaps(self.student, of_student))

    @classmethod
    def student_updates_per_step(cls, config: Any) -> int:
        """Return k."""
        return int(config.student_updates)

    @classmethod
    def needs_statistics(cls, config: Any | None) -> bool:
        """Return whether moments count: in DFQ and CuDFKD, not in DFAD and ZSKT."""
        return config is not None and config.moment_weight > 0

    @classmethod
    def judge_teacher(cls, signs: TeacherSigns) -> Iterable[Remark]:
        """Say which of the published methods the teacher is for."""
        if signs.batch_norms:
            yield Remark(
                "pro", f"{signs.batch_norms} BatchNorm layers whose statistics images can match (DFQ, CuDFKD); "
                "DFAD and ZSKT need none"
            )  # fmt: skip
        else:
            yield Remark(
                "without", f"its loss of moments, so as DFAD or ZSKT and not as DFQ or CuDFKD ({signs.no_batch_norm}): "
                "method.moment_weight=0"
            )  # fmt: skip

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Play one round: the updates of one, then those of the other."""
        index = self.begin_step()
        if self._config.first == "generator":
            return self._teach_generator(index) | self._teach_student(index)
        return self._teach_student(index) | self._teach_generator(index)

    def _teach_generator(self, index: int) -> Metrics:
        metrics: Metrics = {}
        for update in range(self._config.generator_updates):
            metrics = self._update_generator(self._number(index, update), index)
            self.follow_generator()
        self.context.clock.charge("synthesis")
        return metrics

    def _teach_student(self, index: int) -> Metrics:
        config, metrics = self._config, Metrics()
        # The generator stays as it is, so that the same latents make the same images.
        same = config.latents == "shared" and not self.shows_others
        lesson: _Lesson | None = None
        for update in range(config.student_updates):
            number = index * config.student_updates + update
            if lesson is None or not same:
                lesson = self._prepare(self._number(index, config.generator_updates + update), number)
                self.context.clock.charge("synthesis")
            metrics = self._update_student(lesson, number)
            self.context.clock.charge("student")
        return metrics

    def _number(self, index: int, update: int) -> int:
        """Return the number of the latents of an update within a step."""
        config = self._config
        if config.latents == "shared":
            return index
        return index * (config.generator_updates + config.student_updates) + update

    def _update_generator(self, number: int, index: int) -> Metrics:
        config = self._config
        with self.world.autocast():
            images = self._generate(self.latents(number))
            if config.moment_weight:
                logits, _, seen = self._moments(images)
            else:
                logits, _ = self._teacher(images)
        logits = logits.float()
        terms: dict[str, tuple[float, Tensor]] = {}
        if adversary := self._adversary_weight(index):
            terms["disagreement"] = adversary, self._disagreement(images, logits)
        if config.moment_weight:
            distance = losses.bn_statistics(merged(seen, self.world.mean), self._running)
            terms["moments"] = config.moment_weight, distance
        if config.onehot_weight:
            terms["onehot"] = config.onehot_weight, losses.onehot(logits)
        if config.balance_weight:
            balance = losses.information_entropy(logits / config.balance_temperature, self.world.mean)
            terms["balance"] = config.balance_weight, balance
        if not terms:  # its ramp has not begun, and there is nothing else
            return {}
        self.updaters["generator"].minimise(torch.stack([weight * term for weight, term in terms.values()]).sum())
        return {f"loss/{name}": term for name, (_, term) in terms.items()}

    def _adversary_weight(self, index: int) -> float:
        ramp, steps = self._config.ramp, self.context.steps
        if ramp is None:
            return self._config.disagreement_weight
        grown = min(max(index - ramp.begin * steps, 0), (ramp.end - ramp.begin) * steps)
        return self._config.disagreement_weight + ramp.growth * grown

    def _disagreement(self, images: Tensor, teacher_logits: Tensor) -> Tensor:
        config = self._config
        with self.world.autocast():
            logits = self._asked(images).float()
        if config.disagreement == "l1":
            return -losses.logit_distances(logits, teacher_logits).mean()
        loss = losses.disagreement if config.disagreement == "kl" else losses.masked_disagreement
        return loss(logits, teacher_logits, config.disagreement_temperature)

    def _asked(self, images: Tensor) -> Tensor:
        """Return the student's logits, with gradient to the images; only ``remembered`` leaves a trace in it."""
        statistics = self._config.student_statistics
        if statistics == "running":
            self.student.eval()
        try:
            with statistics_kept(self.student) if statistics == "clean" else nullcontext():
                logits: Tensor = self._student(images)
        finally:
            if statistics == "running":
                self.student.train()
        return logits

    @torch.no_grad()
    def _prepare(self, number: int, update: int) -> _Lesson:
        with self.world.autocast():
            images = self._generate(self.latents(number))
        images = self.shown(images, update)
        with self.world.autocast():
            if self._config.attention_weight:
                (logits, _), maps = self._teacher_maps(images)
            else:
                (logits, _), maps = self._teacher(images), []
        return _Lesson(images, logits.float(), [tensor.float() for tensor in maps])

    def _update_student(self, lesson: _Lesson, number: int) -> Metrics:
        config = self._config
        with self.world.autocast():
            if config.attention_weight:
                logits, maps = self._student_maps(lesson.images)
            else:
                logits, maps = self._student(lesson.images), []
        logits = logits.float()
        if config.student_loss == "l1":
            each = losses.logit_distances(logits, lesson.logits)
        else:
            each = losses.divergences(logits, lesson.logits, config.temperature)
        loss = self.sources * self._paced(each, number)
        metrics = {"loss/kd": self.sources * each.mean()}
        if config.attention_weight:
            attention = losses.attention_transfer([tensor.float() for tensor in maps], lesson.maps)
            metrics["loss/attention"] = attention
            loss = loss + self.sources * config.attention_weight * attention
        self.updaters["student"].minimise(loss)
        return metrics

    def _paced(self, each: Tensor, number: int) -> Tensor:
        """Return the mean of the images' losses, weighed by what the student is ready for at an update."""
        paced = self._config.self_paced
        if paced is None:
            return each.mean()
        pace = paced.start + paced.growth * number
        if paced.per == "image":
            return (losses.self_paced_weight(each, pace) * each).mean()
        return losses.self_paced_weight(self.world.mean(each.detach().mean()), pace) * each.mean()


def _build_generator(config: AdversarialConfig, spec: DataSpec) -> nn.Module:
    if config.generator_architecture == "dcgan":
        output = choose_output(spec, config.output_range)
        return Dcgan(config.latent_dim, spec.channels, spec.size, config.generator_width, output)
    output = STANDARDISED if spec.normalisation_known else Output("learned")  # its images are pixels in any case
    maps = [config.generator_width // divisor for divisor in (1, 2, 4)]
    return UnitGenerator(config.latent_dim, spec.size, spec.mean, spec.std, maps, output=output)
