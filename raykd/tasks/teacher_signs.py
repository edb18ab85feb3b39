"""What can be measured of a teacher without training: its answers to noise and to images, and its BatchNorm layers.

Shapes: B batch, C channels, H W image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.data.datasets import DATASETS, Images
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.models.input_moments import input_moments
from raykd.models.moments import variance_gaps
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

WRONG_GAP = 0.6
"""Of ``batch_norm_gap``: on published CIFAR-10 and Fashion-MNIST networks it was 0.03 to 0.18 with the right constants
and 1.04 to 2.38 with wrong ones."""
_MEANS, _DEVIATIONS = (0.03, 0.8), (0.19, 0.46)
"""What training images' pixels may have, by what BatchNorm remembers of them: see ``ImpliedPixels``."""
_GAUSSIAN, _IMAGES = 512, 256
_SEED = 0
_TINY = 1e-8
_OTHER_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclass(frozen=True)
class Answers:
    """What a teacher answers to some inputs.

    Attributes:
        finite: whether all logits are.
        confidence: mean probability of the class it names, in per cent.
        entropy: of the classes it names, in nats; ``named`` of them occur.
        negative_features: share of its penultimate features below 0.
    """

    finite: bool
    confidence: float
    entropy: float
    named: int
    negative_features: float


@torch.no_grad()
def answers_to(teacher: Teacher, batches: Sequence[Tensor]) -> Answers:
    """Ask a teacher about normalised images, each (B, C, H, W) on its device."""
    pairs = [teacher(batch) for batch in batches]
    logits = torch.cat([logits.float() for logits, _ in pairs]).cpu()
    features = torch.cat([features.float() for _, features in pairs]).cpu()
    share = torch.bincount(logits.argmax(1), minlength=teacher.num_classes).double() / len(logits)
    return Answers(
        finite=bool(logits.isfinite().all()),
        confidence=100 * logits.softmax(1).max(1).values.mean().item(),
        entropy=-(share * share.clamp(min=1e-12).log()).sum().item(),
        named=int((share > 0).sum()),
        negative_features=(features < 0).float().mean().item(),
    )


def gaussian_batches(spec: DataSpec, world: World) -> list[Tensor]:
    """Return standard normal inputs, the same each time."""
    generator = torch.Generator().manual_seed(_SEED)
    inputs = torch.randn(_GAUSSIAN, spec.channels, spec.size, spec.size, generator=generator)
    return [batch.to(world.device) for batch in inputs.split(64)]


def image_batch(images: Images, spec: DataSpec, world: World) -> Tensor:
    """Return some images of a split as the network wants them, evenly spread over it."""
    rows = torch.linspace(0, len(images.labels) - 1, min(_IMAGES, len(images.labels))).long().unique()
    (batch,) = evaluation_batches(Images(images.pixels[rows], images.labels[rows]), spec, world, len(rows))
    return batch.images


def passes_gradient(teacher: Teacher, images: Tensor) -> bool:
    """Tell whether a usable gradient reaches the images (B, C, H, W)."""
    images = images.detach().clone().requires_grad_()
    total = teacher(images)[0].float().logsumexp(1).sum()
    if not total.requires_grad:
        return False
    (slope,) = torch.autograd.grad(total, images, allow_unused=True)
    return slope is not None and bool(slope.isfinite().all()) and bool((slope != 0).any())


def batch_norm_faults(teacher: Teacher) -> dict[str, list[str]]:
    """Name the BatchNorm layers whose running statistics cannot be those of real data."""
    faults: dict[str, list[str]] = {"not_finite": [], "zero_variance": [], "never_updated": []}
    for name in teacher.batch_norms:
        layer: Any = teacher.network.get_submodule(name)
        mean, variance = layer.running_mean, layer.running_var
        if not (mean.isfinite().all() and variance.isfinite().all()):
            faults["not_finite"].append(name)
        elif bool((variance == 0).any()):
            faults["zero_variance"].append(name)
        elif bool((mean == 0).all() and (variance == 1).all()):
            faults["never_updated"].append(name)
    return faults


def why_no_batch_norm(teacher: Teacher) -> str:
    """Say what a teacher has in place of BatchNorm layers with running statistics, of which it has none."""
    modules = list(teacher.network.modules())
    if any(isinstance(module, _BatchNorm) for module in modules):
        return "its BatchNorm layers keep no running statistics that could be matched"
    if others := sorted({type(module).__name__ for module in modules if isinstance(module, _OTHER_NORMS)}):
        return f"no BatchNorm layer but {', '.join(others)}, which keeps no statistics that could be matched"
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    folded = len(convolutions) > 1 and all(module.bias is not None for module in convolutions)
    hint = " (all convolutions have biases, into which it may have been folded)" if folded else ""
    return f"no BatchNorm layer whose statistics could be matched{hint}"


@torch.no_grad()
def batch_norm_gap(teacher: Teacher, images: Tensor) -> float | None:
    """Return how far the variances of BatchNorm's inputs are from the running ones; None without such layers.

    With wrong constants of normalisation every layer sees other ones.
    """
    with variance_gaps(teacher) as gaps:
        teacher(images)
    return float(torch.stack(gaps).mean()) if gaps else None


@dataclass(frozen=True)
class ImpliedPixels:
    """Mean and standard deviation per channel of the pixels a teacher was trained on, if its constants are right.

    On published CIFAR-10 networks and LeNets of digits, MNIST and Fashion-MNIST, averaged over the channels, the means
    were 0.17 to 0.41 and the deviations 0.23 to 0.43 with the right constants. With 0 and 1 for standardised ones the
    deviations were 1.01 to 1.39, with 0.5 and 0.5 0.50 to 0.69; with standardised ones for 0 and 1 0.10 to 0.13, and
    with 0.5 and 0.5 for 0 and 1 0.16 to 0.18. Constants of another set that differ little are not told apart.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(
        cls, seen: tuple[Sequence[float], Sequence[float]], mean: Sequence[float], std: Sequence[float]
    ) -> "ImpliedPixels":
        """Undo a normalisation of the ``seen`` means and deviations."""
        means = tuple(m * s + shift for m, s, shift in zip(seen[0], std, mean, strict=True))
        return cls(means, tuple(d * s for d, s in zip(seen[1], std, strict=True)))

    @property
    def averages(self) -> tuple[float, float]:
        """Return the means over the channels."""
        return sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)

    @property
    def possible(self) -> bool:
        """Tell whether there are such images."""
        mean, deviation = self.averages
        return _MEANS[0] < mean < _MEANS[1] and _DEVIATIONS[0] < deviation < _DEVIATIONS[1]


def implied_pixels(teacher: Teacher, spec: DataSpec) -> tuple[ImpliedPixels | None, str | None]:
    """Return what the first BatchNorm tells of the training images' pixels, and a warning where no images have such."""
    seen = input_moments(teacher)
    if seen is None:
        return None, None
    found = ImpliedPixels.of(seen, spec.mean, spec.std)
    if found.possible:
        return found, None
    mean, deviation = found.averages
    text = (
        f"by data.mean and data.std, here {list(spec.mean)} and {list(spec.std)}, its first BatchNorm remembers pixels "
        f"of mean {mean:.2f} and standard deviation {deviation:.2f}, which images do not have: check them"
    )
    for name, (means, deviations) in _known_constants(spec).items():
        other = ImpliedPixels.of(seen, means, deviations)
        if other.possible:
            return found, f"{text}; by {name} it would be {other.averages[0]:.2f} and {other.averages[1]:.2f}"
    return found, text


def _known_constants(spec: DataSpec) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    known: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    if spec.name in DATASETS and DATASETS[spec.name].channels == spec.channels:
        known[f"those of {spec.name}"] = (DATASETS[spec.name].mean, DATASETS[spec.name].std)
    zero, half, one = ((value,) * spec.channels for value in (0.0, 0.5, 1.0))
    known |= {"0 and 1": (zero, one), "0.5 and 0.5": (half, half)}
    if spec.channels == DATASETS["imagenet"].channels:
        known["those of ImageNet"] = (DATASETS["imagenet"].mean, DATASETS["imagenet"].std)
    return known
