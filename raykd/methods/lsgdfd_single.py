"""LS-GDFD with a single generator (Luo et al., 2020, arXiv 2012.05578): the control for one generator per class.

    z ~ N(0, I)      x = G(z)  or  G(z, onehot c)      t = T(x), with the moments (m, v) of its BatchNorm inputs
    G <- CE(t, argmax t  or  c) + a L_mom(m, v) + tv TV(x) + l2 |x|_2

Symbols: a = moment_weight, c = a label (``conditional``), of which every batch holds all classes equally often, as far
as they divide it; L_mom and the units of tv and l2 are in `raykd.methods.inversion`. Without labels the target is the
teacher's own argmax, and nothing but the moments keeps the generator from making one kind of image; the authors'
released code has the label at its input, their remedy in the paper is a generator per class.

``statistics`` says which moments are the target: ``global``, the running ones stored in the teacher, for all images
together; or ``class``, those measured by class beforehand, each for the images of its label.

Where we differ: with several workers gradients and moments are those of the global batch, while the generator's batch
normalisation sees a worker's share. What is produced is a bank of one member that serves all classes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from raykd import losses
from raykd.distributed.updater import Updater
from raykd.distributed.world import mix
from raykd.errors import UsageError
from raykd.generators import EVERY
from raykd.generators.waves import Wave
from raykd.methods.base import BankMethod, MethodContext, Metrics
from raykd.methods.inversion import InversionConfig, Objective, bank_manifest, by_row, hit_rate
from raykd.methods.members import REFRESH, build_bank, refresh_running_stats, sample_bank, sample_classes
from raykd.models.moments import merged
from raykd.spec import Batch


class LsgdfdSingleConfig(InversionConfig):
    """One generator for all classes; see the module's text for ``statistics``."""

    name: Literal["lsgdfd_single"]
    conditional: bool = Field(default=True, description="whether the generator is told the class that it is to show")
    statistics: Literal["class", "global"] = Field(
        default="global", description="whose moments: by class, which takes images or `calibration`, or the stored ones"
    )

    @model_validator(mode="after")
    def _labels_for_classes(self) -> "LsgdfdSingleConfig":
        if self.statistics == "class" and not self.conditional:
            raise ValueError(
                "statistics: class wants moments of the images of each label, and conditional: false has no labels; "
                "use statistics: global or conditional: true"
            )
        return self


class LsgdfdSingle(BankMethod):
    """One generator, a replica on every worker, learns from the teacher."""

    config = LsgdfdSingleConfig
    roles = ("teacher",)
    makes_images = True

    def __init__(self, config: LsgdfdSingleConfig, context: MethodContext) -> None:
        """Build the generator and its updater.

        Raises:
            UsageError: if the teacher, its statistics or the batch do not suit the configuration.
        """
        super().__init__(config, context)
        spec, self._config = context.spec, config
        self._classes = spec.num_classes
        self._rows = self.world.slice(context.global_batch)
        self._share = self._rows.stop - self._rows.start
        self._by_class = config.statistics == "class"
        if self._by_class and self._share % self._classes:
            raise UsageError(
                f"method.statistics=class needs equally many images of all {self._classes} classes on each of "
                f"{self.world.size} workers, not {self._share}: make schedule.global_batch a multiple of "
                f"{self._classes * self.world.size}"
            )
        self._objective = Objective(config, context)
        self._targets = self._objective.targets(range(self._classes) if self._by_class else None)
        self._conditions = self._classes if config.conditional else 0
        self.generator = build_bank((EVERY,), config, context, self._conditions)
        self.trained["generator"] = self.generator
        self.updaters["generator"] = Updater(
            self.generator.parameters(), config.generator_optim, self.world, context.steps
        )
        self._generate = context.compiler(self.generator)
        source = torch.Generator().manual_seed(mix(context.seed, EVERY))
        self._order = torch.randperm(self._classes, generator=source).to(self.world.device)

    @classmethod
    def needs_statistics(cls, config: Any | None) -> bool:
        """Return true: their moments are what images are made for."""
        return True

    @property
    def milestone(self) -> bool:
        """Tell whether the generator is finished."""
        return self.steps_done == self.context.steps

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Update the generator by the global batch."""
        index = self.begin_step()
        objective = self._objective
        z, labels = self.draw(index, index)
        with self.world.autocast():
            images = self._generate(z)
        shifted, logits, moments = objective.teacher_forward(images, index, self._classes if self._by_class else 1)
        label = F.cross_entropy(logits, labels) if self._conditions else losses.onehot(logits)
        moments = (by_row if self._by_class else merged)(moments, self.world.mean)
        terms = objective.terms(shifted, label, moments, self._targets)
        self.updaters["generator"].minimise(
            objective.without_moments(terms) + self._config.moment_weight * terms.moments
        )
        if self.milestone:
            refresh_running_stats(
                self.generator, self._config.settle_passes, lambda p: self.draw(index, p, REFRESH)[0], self.world
            )
        metrics = {
            "loss/class": terms.label,
            "loss/moments": terms.moments,
            "loss/total_variation": terms.total_variation,
            "loss/l2": terms.l2,
        }
        if self._conditions:
            metrics["teacher/hit"] = hit_rate(logits, labels)
        return {name: value.detach() for name, value in metrics.items()}

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return images of all classes in turn, by the generator's running statistics."""
        return sample_bank(self.generator, range(self._classes), num_images, seed, self.world)

    def class_images(self, each: int, seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield images of this worker's part of the classes, where the generator is told the class."""
        if self._conditions:
            part = Wave(0, tuple(range(self._classes))).share(self.world.rank, self.world.size)
            yield from sample_classes(self.generator, part, each, seed, self.world)
        else:
            yield from super().class_images(each, seed)

    def products(self) -> dict[str, dict[str, Tensor]]:
        """Return the generator, from one worker, since all have the same."""
        return {"class_every": self.generator.member_state(EVERY)} if self.milestone and self.world.rank == 0 else {}

    def products_manifest(self) -> dict[str, Any]:
        """Return what the bank consists of."""
        return bank_manifest(self.context, self._config, [EVERY], self._conditions)

    def draw(self, index: int, number: int, stream: int = 0) -> tuple[Tensor, Tensor]:
        """Draw this worker's latents (1, B, latent [+ K]), sorted by label if that is appended, and the labels (B,)."""
        context = self.context
        z = self.world.randn(
            context.global_batch, self._config.generator.latent_dim, seed=mix(context.seed, stream), step=number
        )
        places = torch.arange(self._rows.start, self._rows.stop, device=self.world.device)
        # Goes on where the last step stopped, so that a batch smaller than the classes serves them all in turn.
        labels = self._order[(places + index * context.global_batch) % self._classes]
        if not self._conditions:
            return z[None], labels
        labels, order = labels.sort(stable=True)
        return torch.cat((z[order], F.one_hot(labels, self._classes).to(z.dtype)), dim=1)[None], labels
