"""Quality of synthetic images, measured without a student: are all classes there, and do the images differ?

The measures of collapse. A class whose generator makes one picture over and over has diversity 0.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raykd.distributed.world import World
from raykd.engine.sentinel import member_figures
from raykd.models.moments import input_sums, variance_gap, variance_gaps
from raykd.spec import DataSpec

Labelled = Iterable[tuple[Tensor, Tensor | None]]
"""Batches of images (N, C, H, W) and their target classes (N,), None for generators that were given none."""
_LAYER = "layer/"
SURE = 0.9
"""The teacher's largest probability of an image above which it is sure."""


class ImageQuality(NamedTuple):
    """Figures of images, and what they are on average.

    ``images`` are how many each class has [K], ``means`` the mean image of each [K, C, H, W], zeros of a class without
    any; ``gaps`` as ``raykd.results.ImageStatistics``'s.
    """

    figures: dict[str, float]
    images: Tensor
    means: Tensor
    gaps: Mapping[str, float]


@torch.no_grad()
def image_quality(batches: Labelled, teacher: nn.Module, num_classes: int, world: World) -> ImageQuality:
    """Return figures over all workers' batches; every worker must call it.

    ``hit``: per cent to which the teacher gives the class asked for (absent where none was); with it the figures of
    ``raykd.engine.sentinel.member_figures``, by their report keys.
    ``classes``: effective number of classes, exp of the entropy of the teacher's labels; K if balanced.
    ``pixel_diversity``, ``feature_diversity``: root mean square distance of an image (of its penultimate
    features) to the mean of its class, in per cent of the root mean square of all; the classes are those asked
    for, else the teacher's labels.
    """
    sums: dict[str, Tensor] = {}
    labelled = False
    for images, targets in batches:
        shape = images.shape[1:]
        with input_sums(teacher) as seen:
            logits, features = teacher(images)
        labels = logits.argmax(1)
        labelled = targets is not None
        groups = labels if targets is None else targets.to(labels.device)
        batch_sums = {
            "labels": labels.bincount(minlength=num_classes),
            "hits": groups[labels == groups].bincount(minlength=num_classes),
        }
        batch_sums["rows"] = groups.bincount(minlength=num_classes)
        for name, rows in (("pixel", images.flatten(1)), ("feature", features.flatten(1))):
            precise = rows.double()
            totals = precise.new_zeros(num_classes, precise.shape[1]).index_add_(0, groups, precise)
            squares = precise.new_zeros(num_classes).index_add_(0, groups, precise.square().sum(1))
            batch_sums |= {f"{name}/totals": totals, f"{name}/squares": squares}
        batch_sums |= {f"{_LAYER}{name}": value for name, value in seen.items()}
        sums = {name: sums.get(name, 0) + value for name, value in batch_sums.items()}
    sums = {name: world.sum(value.to(torch.float64)) for name, value in sums.items()}
    count = sums["rows"].sum()
    share = sums["labels"] / count
    figures = {"classes": (-(share * share.clamp(min=1e-12).log()).sum()).exp().item()}
    if labelled:
        figures["hit"] = (100 * sums["hits"].sum() / count).item()
    for name in ("pixel", "feature"):
        squares = sums[f"{name}/squares"]
        # sum |x - mean of its class|^2 = sum |x|^2 - |total|^2 / rows
        within = (squares - sums[f"{name}/totals"].square().sum(1) / sums["rows"].clamp(min=1)).clamp(min=0)
        total = squares.sum().clamp(min=1e-12)
        figures[f"{name}_diversity"] = 100 * (within.sum() / total).sqrt().item()
        if labelled and name == "pixel":
            diversity = 100 * (within / sums["rows"] / (total / count)).sqrt()
            figures |= member_figures(100 * sums["hits"] / sums["rows"], diversity)
    means = (sums["pixel/totals"] / sums["rows"].clamp(min=1)[:, None]).unflatten(1, shape)
    return ImageQuality(figures, sums["rows"].long(), means.float(), _gaps(sums, teacher))


def _gaps(sums: Mapping[str, Tensor], teacher: nn.Module) -> dict[str, float]:
    layers = {name.removeprefix(_LAYER): value for name, value in sums.items() if name.startswith(_LAYER)}
    return {
        name.removeprefix("network."): variance_gap(value, teacher.get_submodule(name).get_buffer("running_var"))
        for name, value in layers.items()
    }


@torch.no_grad()
def batch_quality(images: Tensor, teacher: nn.Module, spec: DataSpec, world: World) -> dict[str, float]:
    """Return figures of one batch of images (N, C, H, W), for a report; of what this worker has alone.

    ``images/pixel_diversity``: as ``image_quality``'s, within the teacher's classes (absent where no class has two).
    ``images/outside``: per cent of the pixels that leave [0, 1] once mean and std are undone.
    ``images/confident``: per cent of the images whose class the teacher gives a probability above 0.9.
    ``images/batch_norm_gap``: mean over the teacher's BatchNorm layers of |ln(variance seen / running variance)|: about
    0.1 on real images (absent without such layers).
    """
    with variance_gaps(teacher) as gaps, world.autocast():
        output = teacher(images)
    logits = (output[0] if isinstance(output, tuple) else output).float()
    confidence, labels = logits.softmax(1).max(1)
    pixels = spec.denormalise(images)
    found = {
        "outside": ((pixels < 0) | (pixels > 1)).float().mean(),
        "confident": (confidence > SURE).float().mean(),
    }
    figures = {f"images/{name}": 100 * value.item() for name, value in found.items()}
    present, groups, counts = labels.unique(return_inverse=True, return_counts=True)
    if len(images) > len(present):
        rows = images.flatten(1).float()
        totals = rows.new_zeros(len(present), rows.shape[1]).index_add_(0, groups, rows)
        squares = rows.square().sum(1, dtype=torch.float64).sum()
        within = squares - (totals.square().sum(1, dtype=torch.float64) / counts).sum()
        # Of n images in k classes n - k distances are free: a single image of a class says nothing.
        share = within / (len(images) - len(present)) * len(images) / squares.clamp(min=1e-12)
        figures["images/pixel_diversity"] = 100 * share.clamp(min=0).sqrt().item()
    if gaps:
        figures["images/batch_norm_gap"] = torch.stack(gaps).mean().item()
    return figures
