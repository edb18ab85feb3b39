"""What methods share that invert a teacher: the objective of their generators, and the manifest of their bank.

    L = class_weight CE(t, target) + moment_weight L_mom + tv_weight TV(x) + l2_weight |x|_2

for images x, the teacher's logits t and the moments of the inputs of its BatchNorm layers l, those of x (m, v) against
their targets (mu, var). ``moments`` chooses the distance: sum_l |m - mu|_2 + |v - var|_2, or ``divergence``,
KL(N(m, v) || N(mu, var)) summed over channels and layers.

Units: TV and the l2 norm are those of single images, averaged; published weights belong to the norm of the whole batch
tensor, which is about sqrt(B) times that of one of its B images, so ours = published * sqrt(B). The defaults are the
published 6e-3 and 1.5e-5 at B = 256. ``output_range`` is explained in `raykd.generators.output`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from raykd import losses
from raykd.config.base import Config
from raykd.config.optim import Adam, Optimizer
from raykd.distributed.world import mix
from raykd.errors import UsageError
from raykd.generators import STANDARDISED, GeneratorConfig, OutputRange, choose_output
from raykd.methods.base import OUTPUT_RANGE, ClassMoments, MethodContext
from raykd.models.moments import MomentTeacher

_JITTER = 13  # keeps these random numbers apart from others of the same seed and step


class InversionConfig(Config):
    """The objective and the generators; weights are in our units, see the module's text."""

    generator: GeneratorConfig = Field(default=GeneratorConfig(), description="the networks that make images")
    class_weight: float = Field(default=1.0, ge=0, description="of the class that an image is to show")
    moment_weight: float = Field(default=1.0, ge=0, description="of the moments of the teacher's BatchNorm inputs")
    moments: Literal["distance", "divergence"] = Field(
        default="distance", description="how far moments are apart: l2 norms, or KL of normal distributions"
    )
    tv_weight: float = Field(default=0.096, ge=0, description="of neighbouring pixels being alike")
    l2_weight: float = Field(default=2.4e-4, ge=0, description="of small pixel values")
    jitter: int = Field(default=2, ge=0, description="largest shift in pixels before teacher and TV see the images")
    settle_passes: int = Field(
        default=16, ge=0, description="passes at the end that only refine the generators' running statistics"
    )
    output_range: OutputRange = OUTPUT_RANGE
    generator_optim: Optimizer = Field(default=Adam(name="adam", lr=1e-3), description="of the generators")


class LossTerms(NamedTuple):
    """The parts of the objective without their weights, each a mean over images (moments: over rows)."""

    label: Tensor
    moments: Tensor
    total_variation: Tensor
    l2: Tensor


class Objective:
    """The teacher, compiled, and the loss of the images that it is given."""

    def __init__(self, config: InversionConfig, context: MethodContext) -> None:
        """Wrap the teacher of ``context``.

        Raises:
            UsageError: if it has no BatchNorm layer.
        """
        self.config = config
        self._context = context
        self.teacher = MomentTeacher(context.networks["teacher"])  # type: ignore[arg-type]
        self._compiled_teacher = context.compiler(self.teacher)

    def targets(self, classes: Sequence[int] | None) -> ClassMoments:
        """Return the target moments on the device: those of some classes, row by row, or (None) the running ones.

        Raises:
            UsageError: if moments by class are asked for and there are none, or those of another teacher.
        """
        running, given = self.teacher.running(), self._context.statistics
        if classes is None:
            return running
        if given is None:
            raise UsageError(
                "method.statistics=class needs the teacher's moments by class: make them from a few images of each "
                "class by `raykd statistics`, or in the recipe by `calibration`; without images use "
                "method.statistics=global"
            )
        expected = [(self._context.spec.num_classes, width) for width in self.teacher.widths]
        got = [tuple(mean.shape) for mean, _ in given]
        if got != expected:
            raise UsageError(
                f"the moments by class are {got}, the teacher's layers {expected}: made for another teacher"
            )
        rows = torch.as_tensor(classes)
        return [
            (mean[rows].to(ours.device, ours.dtype), variance[rows].to(ours.device, ours.dtype))
            for (mean, variance), (ours, _) in zip(given, running, strict=True)
        ]

    def teacher_forward(self, images: Tensor, step: int, groups: int) -> tuple[Tensor, Tensor, ClassMoments]:
        """Shift the images (B, C, H, W) by the jitter of ``step`` and give them to the teacher.

        Returns:
            The shifted images, the logits (B, K), and the moments of ``groups`` groups of B / groups images in a row.
        """
        shifted = _shifted(images, self.config.jitter, self._context.seed, step)
        with self._context.world.autocast():
            logits, _, moments = self._compiled_teacher(shifted, groups)
        return at_least_float32(shifted), at_least_float32(logits), moments

    def terms(self, images: Tensor, label: Tensor, moments: ClassMoments, targets: ClassMoments) -> LossTerms:
        """Return all terms for shifted images; ``label`` is the class term, computed by the caller."""
        moment_loss = losses.bn_statistics if self.config.moments == "distance" else losses.bn_divergence
        return LossTerms(label, moment_loss(moments, targets), losses.total_variation(images), losses.image_l2(images))

    def without_moments(self, terms: LossTerms) -> Tensor:
        """Return the weighted sum of all terms but the moments, whose weight depends on how they were computed."""
        weights = self.config
        images = weights.tv_weight * terms.total_variation + weights.l2_weight * terms.l2
        return weights.class_weight * terms.label + images


def bank_manifest(
    context: MethodContext, config: InversionConfig, classes: list[int], conditions: int = 0
) -> dict[str, Any]:
    """Return what a reader of the finished bank must know; of the output where it is not the published one."""
    spec = context.spec
    output = choose_output(spec, config.output_range).kind
    return {
        "generator": config.generator.model_dump(),
        "channels": spec.channels,
        "size": spec.size,
        "num_classes": spec.num_classes,
        "mean": list(spec.mean),
        "std": list(spec.std),
        **({} if output == STANDARDISED.kind else {"output": output}),
        "conditions": conditions,
        "classes": classes,
        "seed": context.seed,
        "steps": context.steps,
    }


def by_row(moments: ClassMoments, average: Callable[[Tensor], Tensor]) -> ClassMoments:
    """Return each row's moments over the images of all workers, which have equally many of every row."""
    widths = [mean.shape[1] for mean, _ in moments]
    means, variances = (torch.cat(kind, dim=1) for kind in zip(*moments, strict=True))
    mean = average(means)
    variance = average(variances + (means - mean).square())
    return list(zip(mean.split(widths, dim=1), variance.split(widths, dim=1), strict=True))


def hit_rate(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the per cent of images whose label is the teacher's own answer."""
    return 100.0 * (logits.argmax(dim=1) == labels).to(logits.dtype).mean()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a bfloat16 tensor as float32, others as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _shifted(images: Tensor, most: int, seed: int, step: int) -> Tensor:
    """Roll all images by the same number of pixels, up to ``most`` each way, decided by seed and step alone."""
    down, right = (mix(seed, _JITTER, step, axis) % (2 * most + 1) - most for axis in range(2))
    return images.roll((down, right), dims=(2, 3)) if down or right else images
