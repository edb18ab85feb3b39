"""Figures of a bank in training, for a report: what the teacher makes of the images of its present generators.

A run that trains a bank has no student that would tell. All workers' generators are judged, each by the worker that
has it, and what passes between workers are sums by class.
"""

import torch
from torch import Tensor, nn

from raykd.distributed.world import World, mix
from raykd.engine.quality import SURE, Labelled
from raykd.engine.sentinel import CLASSES, DIVERSITY, HIT, PROGRESS, class_figures, effective_classes, member_figures
from raykd.methods.base import BankMethod, Method
from raykd.models.moments import variance_gaps
from raykd.spec import DataSpec

_EACH = 16  # images of a class
_HELD_OUT = 0x6B17  # keeps these latents apart from training's; the same at every report, so that they can be compared
_BY_CLASS = ("rows", "hits", "answers", "squares", "within", "free")
_OVERALL = ("outside", "sure", "gap", "labelled")


def bank_figures(method: Method, teacher: nn.Module | None) -> dict[str, float]:
    """Return figures of the generators that a method trains; none where it trains no bank. Every worker must call it.

    Those of ``judge_images``, and ``images/progress``: per cent of their steps that these generators have behind them.
    """
    if not isinstance(method, BankMethod) or teacher is None:
        return {}
    context = method.context
    batches = method.class_images(_EACH, mix(context.seed, _HELD_OUT))
    figures = judge_images(batches, teacher, context.spec, context.world)
    return {**figures, PROGRESS: method.progress} if HIT in figures else figures


@torch.no_grad()
def judge_images(batches: Labelled, teacher: nn.Module, spec: DataSpec, world: World) -> dict[str, float]:
    """Return figures of all workers' batches of images; every worker must call it, with batches or without.

    ``images/classes``: effective number of classes of the teacher's answers.
    ``images/pixel_diversity``, ``images/outside``, ``images/confident``, ``images/batch_norm_gap``: as in
    ``raykd.engine.quality.batch_quality``; diversity is within the classes that images are for, where they are for
    any; the gap is the mean over batches, and that of a part of the classes is larger than that of all.
    ``images/hit``: per cent of the images that the teacher takes for the class that they are for; with it the figures
    of ``raykd.engine.sentinel.member_figures``, and without classes those of ``class_figures``.
    """
    by_class = torch.zeros(len(_BY_CLASS), spec.num_classes, dtype=torch.float64, device=world.device)
    overall = torch.zeros(len(_OVERALL), dtype=torch.float64, device=world.device)
    for images, classes in batches:
        _add(by_class, overall, images, classes, teacher, spec, world)
    flat = world.sum(torch.cat([by_class.flatten(), overall])).cpu()
    by_class, overall = flat[: by_class.numel()].view_as(by_class), flat[by_class.numel() :]
    sums = dict(zip(_BY_CLASS, by_class, strict=True)) | dict(zip(_OVERALL, overall, strict=True))
    rows = sums["rows"].sum()
    if not rows:
        return {}
    answers = torch.arange(spec.num_classes).repeat_interleave(sums["answers"].long())
    figures = {
        CLASSES: effective_classes(answers, spec.num_classes),
        "images/outside": (100 * sums["outside"] / rows).item(),
        "images/confident": (100 * sums["sure"] / rows).item(),
    }
    if sums["gap"]:  # there is a BatchNorm layer
        figures["images/batch_norm_gap"] = (sums["gap"] / rows).item()
    mean_square = (sums["squares"].sum() / rows).clamp(min=1e-12)
    if sums["free"].sum():
        figures[DIVERSITY] = 100 * (sums["within"].sum() / sums["free"].sum() / mean_square).sqrt().item()
    if not sums["labelled"]:
        return {**figures, **class_figures(answers, spec.num_classes)}
    figures[HIT] = (100 * sums["hits"].sum() / rows).item()
    hits = 100 * sums["hits"] / sums["rows"]
    diversity = 100 * (sums["within"] / sums["free"] / mean_square).sqrt()
    return {**figures, **member_figures(hits, diversity)}


def _add(
    by_class: Tensor,
    overall: Tensor,
    images: Tensor,
    classes: Tensor | None,
    teacher: nn.Module,
    spec: DataSpec,
    world: World,
) -> None:
    """Add a batch of images (N, C, H, W) to the sums ``_BY_CLASS`` (., K) and ``_OVERALL`` (.)."""
    if not len(images):
        return
    with variance_gaps(teacher) as gaps, world.autocast():
        output = teacher(images)
    logits = (output[0] if isinstance(output, tuple) else output).float()
    confidence, answers = logits.softmax(1).max(1)
    groups = answers if classes is None else classes
    number = spec.num_classes
    rows = groups.bincount(minlength=number)
    present, places = groups.unique(return_inverse=True)
    flat = images.flatten(1)
    squares = by_class.new_zeros(number).index_add_(0, groups, flat.square().sum(1, dtype=torch.float64))
    totals = flat.new_zeros(len(present), flat.shape[1]).index_add_(0, places, flat)
    explained = squares.new_zeros(number)
    explained[present] = totals.square().sum(1, dtype=torch.float64) / rows[present]
    batch = {
        "rows": rows,
        "hits": groups[answers == groups].bincount(minlength=number),
        "answers": answers.bincount(minlength=number),
        "squares": squares,
        "within": (squares - explained).clamp(min=0),
        "free": (rows - 1).clamp(min=0),  # of n images n - 1 distances to their mean are free
    }
    by_class += torch.stack([batch[name].double() for name in _BY_CLASS])
    pixels = spec.denormalise(images)
    gap = torch.stack(gaps).mean() * len(images) if gaps else images.new_zeros(())
    scalars = {
        "outside": ((pixels < 0) | (pixels > 1)).float().mean() * len(images),
        "sure": (confidence > SURE).sum(),
        "gap": gap,
        "labelled": images.new_tensor(float(classes is not None)),
    }
    overall += torch.stack([scalars[name].double() for name in _OVERALL])
