"""Quality of synthetic images, measured without a student: are all classes there, and do the images differ?

The measures of collapse. A class whose generator makes one picture over and over has diversity 0.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from raykd.distributed.world import World

Labelled = Iterable[tuple[Tensor, Tensor | None]]
"""Batches of images (N, C, H, W) and their target classes (N,), None for generators that were given none."""


@torch.no_grad()
def image_quality(batches: Labelled, teacher: nn.Module, num_classes: int, world: World) -> dict[str, float]:
    """Return figures over all workers' batches; every worker must call it.

    ``hit``: per cent to which the teacher gives the class asked for (absent where none was).
    ``classes``: effective number of classes, exp of the entropy of the teacher's labels; K if balanced.
    ``pixel_diversity``, ``feature_diversity``: root mean square distance of an image (of its penultimate
    features) to the mean of its class, in per cent of the root mean square of all; the classes are those asked
    for, else the teacher's labels.
    """
    sums: dict[str, Tensor] = {}
    labelled = False
    for images, targets in batches:
        logits, features = teacher(images)
        labels = logits.argmax(1)
        labelled = targets is not None
        groups = labels if targets is None else targets.to(labels.device)
        batch_sums = {"labels": labels.bincount(minlength=num_classes), "hits": (labels == groups).sum()}
        batch_sums["rows"] = groups.bincount(minlength=num_classes)
        for name, rows in (("pixel", images.flatten(1)), ("feature", features.flatten(1))):
            precise = rows.double()
            totals = precise.new_zeros(num_classes, precise.shape[1]).index_add_(0, groups, precise)
            batch_sums |= {f"{name}/totals": totals, f"{name}/squares": precise.square().sum()}
        sums = {name: sums.get(name, 0) + value for name, value in batch_sums.items()}
    sums = {name: world.sum(value.to(torch.float64)) for name, value in sums.items()}
    count = sums["rows"].sum()
    share = sums["labels"] / count
    figures = {"classes": (-(share * share.clamp(min=1e-12).log()).sum()).exp().item()}
    if labelled:
        figures["hit"] = (100 * sums["hits"] / count).item()
    for name in ("pixel", "feature"):
        # sum |x - mean of its class|^2 = sum |x|^2 - sum over classes |total|^2 / rows
        explained = (sums[f"{name}/totals"].square().sum(1) / sums["rows"].clamp(min=1)).sum()
        within = (1 - explained / sums[f"{name}/squares"].clamp(min=1e-12)).clamp(min=0)
        figures[f"{name}_diversity"] = 100 * within.sqrt().item()
    return figures
