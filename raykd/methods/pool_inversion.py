"""Inversion into a growing pool: the loop of CMI, Fast-DFKD, NAYER and GapSSG, each a choice of its switches.

A call c, for labels y_i and latents z_i (see `raykd.methods.latents`) of B images, k inner steps j of Adam with fresh
moments on generator and latents:

    x = G_j(z)        v = crop and flip of x        t = T(v), s = S(v), S in evaluation mode
    L = w_m L_mom(v) + w_y mean_i CE(t_i, y_i) + w_a L_adv + w_b sum_c pbar_c ln pbar_c + w_t TV(x) + w_c L_con

The images of the lowest L of the k go to the pool. From call ``warmup_calls`` on the adversary is there, and m student
updates follow, each on n images drawn from the whole pool, cropped and mirrored anew:

    S <- T^2 KL(T(x) / T || S(x) / T)

Switches:

* ``meta`` none: the generator of a batch begins where the last one ended (at the first of every ``fresh_every`` calls
  it is drawn anew: ``generator_init``). fomaml: it begins as a copy of a meta-generator theta, which then takes a step
  of Adam along the sum of the k gradients, at k times the inner rate (Fast-DFKD); reptile: along theta - theta_k.
* ``adversary`` masked_kl: -KL(T || S) of the images that both answer alike; gap: GapSSG's; none.
* ``contrast_weight`` w_c: CMI's, which tells every image from others, see `raykd.methods.contrast`.
* ``moment_memory`` r: the moments in L_mom are (1 - r) those of the batch + r an average over calls, which takes in the
  last step's once a batch, with the same r. It scales L_mom's gradient by 1 - r, so change it together with w_m.
* ``moments`` relative: see `raykd.losses.bn_relative`, a weight of which suits other teachers too; distance: the sum
  over layers of the papers, whose weights belong to their teacher's number of layers and widths; divergence.
* ``views`` V > 0: the student learns V fixed crops of each image, for which the teacher is asked once, when it comes.

Published as: CMI (Fang et al., IJCAI 2021, arXiv 2105.08584), Fast-DFKD (Fang et al., AAAI 2022, arXiv 2112.06253),
NAYER (Tran et al., CVPR 2024, arXiv 2310.00258), GapSSG (Li et al., TPAMI 2024).

Units: nats. L_mom is that of `raykd.losses`; TV of single images.

Where we differ from the authors' code: pixels are rounded to 8 bits where theirs are truncated; Fast-DFKD's first layer
is not drawn anew on the way; the student's rate falls with every update, not every call; one image in 32 is held out,
for blind selection, where theirs selects on the test set; with several workers each inverts its share of the batch,
whose moments are its own, and what the generator begins the next batch from is the mean over workers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raykd import losses
from raykd.config.base import Config
from raykd.config.optim import Adam
from raykd.data.augment import augment_normalised
from raykd.data.image_pool import Eviction, ImagePool, PoolPart, SavedImages
from raykd.distributed.updater import Updater
from raykd.distributed.world import mix
from raykd.errors import UsageError
from raykd.generators import UnitGenerator, initialise
from raykd.methods.base import ClassMoments, MethodContext, Metrics, PoolMethod
from raykd.methods.contrast import Contrast, feature_means
from raykd.methods.inversion import hit_rate
from raykd.methods.latents import (
    LabelLatents,
    Labels,
    Latent,
    NormalLatents,
    label_embeddings,
    label_latents,
    normal_latents,
)
from raykd.methods.moment_memory import Distance, MomentMemory, wrap_teacher
from raykd.methods.signs import Remark, TeacherSigns
from raykd.models.moments import merged
from raykd.spec import Batch

_LATENT, _INIT, _STUDENT, _CONTRAST = 41, 42, 43, 44  # keep these draws apart from others of the same seed


class PoolInversionConfig(Config):
    """The switches; see the module's text."""

    name: Literal["pool_inversion"]
    latent: Latent = Field(default="normal", description="what images are made from: noise, or labels as vectors")
    embeddings: str | None = Field(default=None, description="file of latent=file: .safetensors or .npz, a row a class")
    latent_dim: int = Field(default=256, gt=0, description="size of what images are made from")
    latent_lr: float = Field(default=0.01, ge=0, description="rate of the latents, or of the layers behind labels")
    generator_maps: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(128, 128, 64), min_length=2, description="feature maps before the first upsampling and after each"
    )
    generator_init: Literal["default", "normal"] = Field(default="default", description="of torch, or N(0, 0.02)")
    fresh_every: int = Field(default=0, ge=0, description="calls after which the generator is drawn anew; 0: never")
    meta: Literal["none", "fomaml", "reptile"] = Field(default="fomaml", description="how the generator gets fast")
    generator_optim: Adam = Field(
        default=Adam(name="adam", lr=2e-3, betas=(0.5, 0.999)),
        description="of the inner steps, at a constant rate; with meta also of the meta-generator, at k times it",
    )
    inner_steps: int = Field(default=10, gt=0, description="k: steps on generator and latents for a batch")
    synthesis_batch: int | None = Field(default=None, gt=1, description="B: images; left out: schedule.global_batch")
    batches_per_call: int = Field(default=1, gt=0, description="batches that are inverted in a call")
    warmup_batches: int | None = Field(default=None, gt=0, description="the same during the warm-up, if another number")
    warmup_calls: int = Field(default=20, ge=0, description="calls without adversary and student")
    keep: Literal["best", "last"] = Field(default="best", description="images of the lowest loss, or the last")
    moments: Distance = Field(default="relative", description="how far they are apart; relative suits any teacher")
    moment_weight: float = Field(default=200.0, ge=0, description="of BatchNorm moments; 0 needs no BatchNorm")
    moment_memory: float = Field(default=0.9, ge=0, lt=1, description="r: share of earlier calls in the moments")
    label_weight: float = Field(default=0.5, ge=0, description="of the class that an image is to show")
    adversary: Literal["none", "masked_kl", "gap"] = Field(default="masked_kl", description="what puzzles the student")
    adversarial_weight: float = Field(default=1.1, ge=0, description="of puzzling the student")
    balance_weight: float = Field(default=0.0, ge=0, description="of the batch's classes being equally frequent")
    tv_weight: float = Field(default=0.0, ge=0, description="of neighbouring pixels being alike")
    contrast_weight: float = Field(default=0.0, ge=0, description="of CMI's contrast; above 0 it needs BatchNorm")
    contrast_temperature: float = Field(default=0.1, gt=0, description="of that contrast")
    contrast_memory: int = Field(default=8192, gt=0, description="images whose features are remembered for it")
    contrast_negatives: int = Field(default=4096, gt=0, description="of these in each inner step")
    augment: tuple[Literal["crop", "flip"], ...] | None = Field(
        default=None, description="of the images, for teacher and student; left out: crop, and flip where classes allow"
    )
    student_steps: int = Field(default=25, gt=0, description="m: student updates in a call")
    temperature: float = Field(default=20.0, gt=0, description="T: softens both networks' answers")
    views: int = Field(default=0, ge=0, description="V: fixed views of each image with the teacher's answers; 0: none")
    max_images: int | None = Field(default=None, gt=1, description="held at most; left out: all")
    eviction: Eviction = Field(default="oldest", description="which images go where max_images are there")

    @model_validator(mode="after")
    def _consistent(self) -> "PoolInversionConfig":
        if (self.latent == "file") != (self.embeddings is not None):
            raise ValueError("'embeddings' is the file of latent=file: give both or neither")
        if self.meta != "none" and self.fresh_every:
            raise ValueError("a meta-learned generator is never drawn anew: set meta=none, or fresh_every=0")
        if self.views and self.augment is not None and "crop" not in self.augment:
            raise ValueError("views are crops: leave out 'augment', or set views=0")
        varies = self.generator_optim.schedule.name != "constant" or self.generator_optim.warmup_steps
        if self.meta == "none" and varies:
            raise ValueError("without meta the generator's rate is constant: leave out 'schedule' and 'warmup_steps'")
        return self


class PoolInversion(PoolMethod):
    """A generator inverts the teacher into a pool, from which the student learns."""

    config = PoolInversionConfig
    makes_images = True

    def __init__(self, config: PoolInversionConfig, context: MethodContext) -> None:
        """Build generator, pool and updaters; compile all networks.

        Raises:
            UsageError: if moments are to be matched and the teacher has no BatchNorm, a batch does not divide, or all
                calls are warm-up.
        """
        super().__init__(config, context)
        self._config = config
        spec, world, seed = context.spec, self.world, context.seed
        if context.steps <= config.warmup_calls:
            raise UsageError(
                f"schedule.steps={context.steps} calls are all warm-up (method.warmup_calls={config.warmup_calls}), so "
                "no student would learn: give more steps or fewer warm-up calls"
            )
        batch = config.synthesis_batch or context.global_batch
        self._batch = batch
        world.share(batch)  # refuses one that does not divide
        teacher = context.networks["teacher"]
        self._moment_teacher = wrap_teacher(teacher) if config.moment_weight or config.contrast_weight else None
        self._teacher = context.compiler(teacher)
        self._inverted = self._teacher if self._moment_teacher is None else context.compiler(self._moment_teacher)
        running = [] if self._moment_teacher is None else self._moment_teacher.running()
        self._memory = MomentMemory(running, config.moments, config.moment_memory, world)
        labelled = config.latent != "normal"
        self._labels = Labels(spec.num_classes, world, batch, seed, balanced=labelled)
        self._embeddings: Tensor | None = None
        if labelled:
            self._embeddings = label_embeddings(config.latent, teacher, spec.num_classes, context.embeddings)
        self.generator, self._inner = (self._build_generator().to(world.device) for _ in range(2))
        initialise(self.generator, config.generator_init, mix(seed, _INIT))
        self.trained["generator"] = self.generator
        if config.meta != "none":
            outer = config.generator_optim.model_copy(update={"lr": config.generator_optim.lr * config.inner_steps})
            batches = self._batches_before(context.steps)
            self.updaters["generator"] = Updater(self.generator.parameters(), outer, world, batches)
        self._generate, self._student = context.compiler(self._inner), context.compiler(self.student)
        self._augment = config.augment if config.augment is not None else ("crop", *["flip"] * context.mirrored)
        self._contrast = None
        if config.contrast_weight:
            assert self._moment_teacher is not None, "made above"
            self._contrast = Contrast(
                self._moment_teacher.widths,
                spec,
                world,
                lr=config.generator_optim.lr,
                temperature=config.contrast_temperature,
                memory=config.contrast_memory,
                negatives=config.contrast_negatives,
                seed=mix(seed, _CONTRAST),
                flips="flip" in self._augment,
                steps=self._batches_before(context.steps) * config.inner_steps,
            )
            self.trained["contrast"] = self._contrast.head
            self.updaters["contrast"] = self._contrast.updater
        self.pool = ImagePool(
            spec,
            world,
            batch=batch,
            batches=_capacity(config, batch, context.steps),
            seed=seed,
            eviction=config.eviction,
            views=config.views,
            flips="flip" in self._augment,
        )

    @classmethod
    def needs_statistics(cls, config: Any | None) -> bool:
        """Return whether moments are matched."""
        return config is not None and (config.moment_weight > 0 or config.contrast_weight > 0)

    @classmethod
    def student_updates_per_step(cls, config: Any) -> int:
        """Return m."""
        return int(config.student_steps)

    @classmethod
    def student_updates(cls, config: Any, steps: int) -> int:
        """Return m for each call behind the warm-up."""
        return int(config.student_steps * max(0, steps - config.warmup_calls))

    @classmethod
    def phases(cls, config: Any, steps: int) -> Sequence[range]:
        """Return the warm-up's calls, and those that also update the student."""
        warm = min(steps, config.warmup_calls)
        return [calls for calls in (range(warm), range(warm, steps)) if calls]

    @classmethod
    def images_made(cls, config: Any, steps: int, global_batch: int) -> int:
        """Return B for each batch of each call."""
        return int(batches_before(config, steps) * (config.synthesis_batch or global_batch))

    @classmethod
    def images_held(cls, config: Any, steps: int, global_batch: int) -> int:
        """Return those, or whole batches of ``max_images``."""
        batch = config.synthesis_batch or global_batch
        return min(cls.images_made(config, steps, global_batch), batch * _capacity(config, batch, steps))

    @property
    def image_bytes(self) -> int:
        """Return the bytes of an image in the pool."""
        return self.pool.image_bytes

    @classmethod
    def judge_teacher(cls, signs: TeacherSigns) -> Iterable[Remark]:
        """See whether there are moments to match."""
        if signs.batch_norms:
            yield Remark("pro", f"{signs.batch_norms} BatchNorm layers whose statistics images can match")
        else:
            yield Remark(
                "without", f"its moments ({signs.no_batch_norm}): method.moment_weight=0, in their place "
                "method.balance_weight=1 method.tv_weight=0.1, at the cost of accuracy"
            )  # fmt: skip
        if signs.batch_norms and signs.sick:
            yield Remark("con", "images match wrong statistics: compare with method.moment_weight=0")

    @property
    def images_per_step(self) -> int:
        """Return how many images the call to come inverts and shows the student, of all workers."""
        call, config = self.steps_done, self._config
        shown = 0 if call < config.warmup_calls else config.student_steps * self.context.global_batch
        return self._batches_of(call) * self._batch + shown

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Invert the call's batches, then update the student from the pool."""
        call, config = self.begin_step(), self._config
        metrics: Metrics = {}
        if config.fresh_every and call % config.fresh_every == 0:
            initialise(self.generator, config.generator_init, mix(self.context.seed, _INIT, self.pool.batches))
        for _ in range(self._batches_of(call)):
            metrics = self.invert(call)
        self.context.clock.charge("synthesis")
        metrics["pool/images"] = torch.full((), float(len(self.pool)), device=self.world.device)
        if call >= config.warmup_calls:
            first = (call - config.warmup_calls) * config.student_steps
            for update in range(first, first + config.student_steps):
                metrics["loss/kd"] = self.update_student(update)
        return metrics

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return held-out images of the pool; every worker must call it."""
        return self.pool.held_out(num_images, seed)

    def new_images(self) -> PoolPart | None:
        """Return this worker's images since the last call."""
        return self.pool.unsaved()

    def load_images(self, saved: SavedImages) -> None:
        """Fill the pool again."""
        had, made = self._pool_state["batches"], self._batches_before(self.steps_done)
        if had != made:  # it would be counted up to, however many
            raise ValueError(f"its pool had {had} batches, and {self.steps_done} calls make {made}")
        self.pool.load(saved.parts(), self._pool_state)

    def state_dict(self) -> dict[str, Any]:
        """Return the average of the moments over calls, the contrast's memory, and of the pool all but its images."""
        contrast = {} if self._contrast is None else {"contrast": self._contrast.state_dict()}
        return {**super().state_dict(), "memory": self._memory.state_dict(), "pool": self.pool.state_dict(), **contrast}

    def checkpoint_bytes(self) -> int:
        """Return the bytes of networks, optimizers and the contrast's memory."""
        return super().checkpoint_bytes() + (0 if self._contrast is None else self._contrast.state_bytes())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state)
        self._pool_state = state["pool"]
        self._memory.load_state_dict(state["memory"])
        if self._contrast is not None:
            self._contrast.load_state_dict(state["contrast"])

    def _batches_of(self, call: int) -> int:
        return batches_before(self._config, call + 1) - batches_before(self._config, call)

    def _batches_before(self, call: int) -> int:
        return batches_before(self._config, call)

    def _build_generator(self) -> UnitGenerator:
        config, spec = self._config, self.context.spec
        return UnitGenerator(config.latent_dim, spec.size, spec.mean, spec.std, config.generator_maps)

    def _latents(self, number: int, labels: Tensor) -> NormalLatents | LabelLatents:
        config, world, seed = self._config, self.world, mix(self.context.seed, _LATENT)
        if self._embeddings is None:
            return normal_latents(world, self._batch, config.latent_dim, seed, number)
        return label_latents(self._embeddings, labels, config.latent_dim, world, seed, number)

    def invert(self, call: int) -> Metrics:
        """Make one batch of images and append it to the pool."""
        config, number, contrast = self._config, self.pool.batches, self._contrast
        labels = self._labels.draw(number)
        latents = self._latents(number, labels)
        self._inner.load_state_dict(self.generator.state_dict())
        weights = list(self._inner.parameters())
        heads = [] if contrast is None else list(contrast.head.parameters())
        optim = config.generator_optim
        of_weights = optim.build(weights)
        of_latents = optim.model_copy(update={"lr": config.latent_lr}).build(latents.parameters)  # type: ignore[arg-type]
        inner_parameters = [*weights, *latents.parameters]
        total = [torch.zeros_like(weight) for weight in weights]
        adversarial = config.adversary != "none" and call >= config.warmup_calls
        self.student.eval().requires_grad_(False)  # so that a compiled backward pass makes no gradients of its weights
        best = torch.full((), torch.inf, device=self.world.device)
        kept: tuple[Tensor, Tensor | None] | None = None
        for inner in range(config.inner_steps):
            with self.world.autocast():
                images = self._generate(latents.vectors())
            draw = number * config.inner_steps + inner
            loss, metrics, moments, features = self._objective(images, labels, draw, adversarial)
            gradients = torch.autograd.grad(loss, [*inner_parameters, *heads])
            if config.meta == "fomaml":
                torch._foreach_add_(total, list(gradients[: len(weights)]))
            for parameter, gradient in zip(inner_parameters, gradients, strict=False):
                # Fused optimizers walk both in memory order, and convolutions may return channels-last gradients.
                same = gradient.stride() == parameter.stride()
                parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
            of_weights.step()
            of_latents.step()
            if contrast is not None:
                contrast.updater.step(gradients[len(inner_parameters) :])
            found, loss = (images.detach(), features), loss.detach()
            better = loss < best
            kept = found if kept is None or config.keep == "last" else _better(better, found, kept)
            best = torch.where(better, loss, best)
        self.student.train().requires_grad_(True)
        self._memory.remember(moments)
        self._end_inner(weights, total)
        assert kept is not None, "there is one step at least"
        if contrast is not None and kept[1] is not None:
            contrast.remember(kept[1])
        self.updaters["student"].refuse((~kept[0].isfinite().all()).float())
        self._append(kept[0].float(), labels)
        return metrics

    def _objective(
        self, images: Tensor, labels: Tensor, draw: int, adversarial: bool
    ) -> tuple[Tensor, Metrics, ClassMoments, Tensor | None]:
        """Return L, its terms without their weights, the moments that the teacher saw, and the contrast's features."""
        config, context = self._config, self.context
        shown = augment_normalised(images, self._augment, context.spec, self.world, seed=context.seed, step=draw)
        teacher_logits, moments, features = self._look(images, shown, draw)
        label = torch.nn.functional.cross_entropy(teacher_logits, labels)
        loss = config.label_weight * label
        metrics = {"loss/label": label, "teacher/hit": hit_rate(teacher_logits, labels)}
        if config.moment_weight:
            metrics["loss/moments"] = self._memory.loss(moments)
            loss = loss + config.moment_weight * metrics["loss/moments"]
        if self._contrast is not None and features is not None:
            local, whole = features.chunk(2, dim=1)
            metrics["loss/contrast"] = self._contrast.loss(local, whole, draw)
            loss = loss + config.contrast_weight * metrics["loss/contrast"]
        if adversarial:
            with self.world.autocast():
                student_logits = self._student(shown)
            student_logits = student_logits.float()
            if config.adversary == "gap":
                metrics["loss/adversarial"] = losses.gap(student_logits, teacher_logits, labels)
            else:
                metrics["loss/adversarial"] = losses.masked_disagreement(student_logits, teacher_logits)
            loss = loss + config.adversarial_weight * metrics["loss/adversarial"]
        if config.balance_weight:
            metrics["loss/balance"] = losses.information_entropy(teacher_logits)
            loss = loss + config.balance_weight * metrics["loss/balance"]
        if config.tv_weight:
            metrics["loss/tv"] = losses.total_variation(images.float())
            loss = loss + config.tv_weight * metrics["loss/tv"]
        seen = None if features is None else features.detach()
        return loss, {name: value.detach() for name, value in metrics.items()}, moments, seen

    def _look(self, images: Tensor, shown: Tensor, draw: int) -> tuple[Tensor, ClassMoments, Tensor | None]:
        """Show the teacher a batch, and for the contrast a local view of each image too.

        Returns:
            Its logits (b, K) of the batch; the moments of the batch, none where no term needs them; and the features
            (b, 2 D) of local views and batch.
        """
        if self._moment_teacher is None:
            with self.world.autocast():
                return self._inverted(shown)[0].float(), [], None
        if self._contrast is None:
            with self.world.autocast():
                logits, _, grouped = self._inverted(shown, 1)
            return logits.float(), [(mean[0], variance[0]) for mean, variance in grouped], None
        rows = len(images)
        views = torch.cat([shown, self._contrast.local_view(images, draw)])
        with self.world.autocast():
            logits, _, by_image = self._inverted(views, len(views))
        of_batch = merged([(mean[:rows], variance[:rows]) for mean, variance in by_image])
        whole, local = feature_means(by_image).split(rows)
        moments = [(mean[0], variance[0]) for mean, variance in of_batch]
        return logits[:rows].float(), moments, torch.cat([local, whole], dim=1)

    def _end_inner(self, weights: Sequence[Tensor], total: Sequence[Tensor]) -> None:
        """Move the meta-generator, or let the generator be what the inner one has become."""
        if self._config.meta == "none":
            flat = torch.cat([weight.detach().reshape(-1) for weight in weights])
            flat = self.world.sum(flat) / self.world.size
            pieces = flat.split([weight.numel() for weight in weights])
            with torch.no_grad():
                for own, piece in zip(self.generator.parameters(), pieces, strict=True):
                    own.copy_(piece.view_as(own))
            return
        if self._config.meta == "reptile":
            pairs = zip(self.generator.parameters(), weights, strict=True)
            total = [own.detach() - weight.detach() for own, weight in pairs]
        self.updaters["generator"].step(total)

    def _append(self, images: Tensor, labels: Tensor) -> None:
        """Put images into the pool, with the teacher's answers to their views where it keeps such."""
        logits = None
        if self._config.views:
            spec = self.context.spec
            cuts, stored = self.pool.next_views(), self.pool.as_stored(images)
            answers = []
            for view in range(self._config.views):
                cut = type(cuts)(cuts.corners[:, view], cuts.flips[:, view])
                shown = spec.normalise(cut.of(stored))
                with self.world.autocast(), torch.no_grad():
                    answers.append(self._teacher(shown)[0].half())
            logits = torch.stack(answers, dim=1)
        self.pool.append(images, labels, logits)

    def update_student(self, update: int) -> Tensor:
        """Take a step of the student on a draw of the pool; return the loss."""
        config, context = self._config, self.context
        drawn = self.pool.draw(context.global_batch, update)
        images = drawn.images
        with self.world.autocast():
            if drawn.teacher_logits is None:
                seed = mix(context.seed, _STUDENT)
                images = augment_normalised(images, self._augment, context.spec, self.world, seed=seed, step=update)
                with torch.no_grad():
                    teacher_logits = self._teacher(images)[0].float()
            else:
                teacher_logits = drawn.teacher_logits
            student_logits = self._student(images).float()
        kd = losses.kd_divergence(student_logits, teacher_logits, config.temperature)
        self.updaters["student"].minimise(kd)
        return kd.detach()


def batches_before(config: PoolInversionConfig, call: int) -> int:
    """Return how many batches are inverted before a call."""
    warm = min(call, config.warmup_calls)
    of_warm_up = config.batches_per_call if config.warmup_batches is None else config.warmup_batches
    return of_warm_up * warm + config.batches_per_call * (call - warm)


def _capacity(config: PoolInversionConfig, batch: int, steps: int) -> int:
    """Return how many batches of ``batch`` images the pool of a run holds."""
    whole = batches_before(config, steps)
    return whole if config.max_images is None else min(whole, max(1, config.max_images // batch))


def _better(
    is_better: Tensor, new: tuple[Tensor, Tensor | None], old: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """Return new images and features where they are better, without asking the device which they are."""
    features = None if new[1] is None or old[1] is None else torch.where(is_better, new[1], old[1])
    return torch.where(is_better, new[0], old[0]), features
