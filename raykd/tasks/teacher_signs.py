"""What can be measured of a teacher without training: its answers to noise and to images, and its BatchNorm layers.

Shapes: B batch, C channels, H W image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.data.datasets import Images
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.models.moments import variance_gaps
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

WRONG_GAP = 0.6
"""Of ``batch_norm_gap``: on published CIFAR-10 and Fashion-MNIST networks it was 0.03 to 0.18 with the right constants
and 1.04 to 2.38 with wrong ones."""
COMPARED = 1024
"""Test images by which constants of normalisation are compared."""
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


@torch.no_grad()
def cross_entropy(teacher: Teacher, images: Images, spec: DataSpec, world: World) -> float:
    """Return the mean cross-entropy in nats of the labels of some images, evenly spread over a split."""
    rows = torch.linspace(0, len(images.labels) - 1, min(COMPARED, len(images.labels))).long().unique()
    some = Images(images.pixels[rows], images.labels[rows])
    losses = [
        functional.cross_entropy(teacher(batch.images)[0].float(), batch.labels.to(world.device), reduction="sum")
        for batch in evaluation_batches(some, spec, world, _IMAGES)
    ]
    return float(torch.stack(losses).sum()) / len(rows)


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
