"""Judge several students of a teacher on each other's images: no student on those that it has learnt from.

Each source of images is one student's. What a student agrees on with the teacher depends on how hard a source is too,
so agreements are not averaged: student i on source j is taken to score, on the scale of log odds, q_i + d_j, and all q
and d are found by least squares. So it does no student harm that the others' images are hard, nor good that they are
easy. A source that shows few classes, and a control's, which no real image is like, judge nobody. Two candidates who
have only each other's images would leave open whose are the harder ones; so images of two, cut together in the middle,
are a source for all, which neither of them owns more than the other.

All is blind: agreement is with the teacher, by class (see ``balanced_score``), on images that methods have made, half
of them stretched to the range of real ones, some shifted, mirrored or cut with each other (see ``BlindPool``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from raykd.artifacts.pool_files import PoolFiles
from raykd.distributed.world import World, mix
from raykd.engine.blind_pool import BlindPool
from raykd.engine.build import build_network
from raykd.engine.selection import check_shapes
from raykd.engine.state import unfit
from raykd.errors import UsageError
from raykd.models.teacher import Teacher
from raykd.results import COVERAGE, why_not_judged
from raykd.results.distill import Verdict
from raykd.spec import DataSpec
from raykd.store.checkpoint import latest_checkpoint, pool_files, read_checkpoint
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

IMAGES = 1024
"""Of a source, at most."""
_SEED = 0x1D6E
_HEADROOM = 0.1  # of what lies between chance and 100 %: no more than that above chance is near it
_AGAINST = 0.3  # of the sources that have judged both: so many rank the first two the other way round
_LEAST_ODDS = 0.5  # images: what is agreed on always, or never, is taken to differ on so many


def near_chance_below(num_classes: int) -> float:
    """Return below which agreement, in per cent by class, a student is near chance, where one class alone has 100/K."""
    chance = 100 / num_classes
    return chance + _HEADROOM * (100 - chance)


@dataclass(frozen=True)
class Contestant:
    """A student as far as it is trained, and the images that it has learnt from, with the teacher's answers.

    Attributes:
        name: its own.
        student: the network, in evaluation mode.
        step: that it is of.
        images: for the others; ``held_out`` for all, itself among them, where nobody else's are fit; None where it made
            none.
        family: of what it is a variant, or its name: a generator that does not ask the student makes the same images
            whatever the student's rate is.
        is_control: whether it is what others must beat.
    """

    name: str
    student: nn.Module
    step: int
    images: BlindPool | None
    held_out: BlindPool | None
    family: str
    is_control: bool = False

    @property
    def fault(self) -> str | None:
        """Return what speaks against judging by its images; None if nothing does."""
        if self.images is None:
            return "it makes no images"
        if self.is_control:
            return "no real image is like a control's"
        return why_not_judged({COVERAGE: self.images.coverage})


def read_contestant(
    run: RunDirectory, teacher: Teacher, spec: DataSpec, workspace: Workspace, world: World
) -> Contestant:
    """Read the student of a run's newest checkpoint, and its images; it is called by its run's name.

    Raises:
        UsageError: if nothing is saved yet.
        CorruptError: if what is there is damaged.
    """
    experiment = run.experiment()
    path = latest_checkpoint(run.checkpoints)
    config = experiment.recipe.student
    assert config is not None, "only students are judged"
    if path is None:
        raise UsageError(f"{run.path} holds no checkpoint yet")
    checkpoint = read_checkpoint(path)
    student = build_network(config.model_copy(update={"weights": None}), spec, workspace, "student").to(world.device)
    chosen = "blind" if "blind" in checkpoint.weights else "last"
    held_out = BlindPool(spec, 0, mirrored=False)
    try:
        check_shapes(chosen, checkpoint.weights[chosen], student.state_dict())
        student.load_state_dict(checkpoint.weights[chosen])
        held_out.load_state_dict(checkpoint.state["selection"]["pool"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unfit(path, error) from None
    mirrored = "flip" in experiment.recipe.data.augment
    files = PoolFiles(run, pool_files(path), spec.num_classes)
    images = _from_pool(files, spec, teacher, world, mirrored=mirrored) or held_out
    shown, own = (one if len(one) else None for one in (images, held_out))
    return Contestant(run.name, student.eval(), checkpoint.step, shown, own, run.name)


def _from_pool(files: PoolFiles, spec: DataSpec, teacher: Teacher, world: World, *, mirrored: bool) -> BlindPool | None:
    """Return images of a run's whole pool, evenly spread over it; None where there is none.

    Those that a report holds out of it are few at first.
    """
    if not files.files:
        return None
    numbers = torch.cat(list(files.numbers())).sort().values
    wanted = numbers[torch.linspace(0, len(numbers) - 1, min(IMAGES, len(numbers))).long().unique()]
    parts = [part.pixels[torch.isin(part.numbers, wanted)] for part in files.parts(wanted, view_logits=False)]
    images = spec.normalise(torch.cat(parts).float() / 255).to(world.device)
    pool = BlindPool(spec, mix(_SEED), mirrored=mirrored)
    pool.add(images, 0, teacher, world)
    return pool


def judge(contestants: Sequence[Contestant], spec: DataSpec, teacher: nn.Module, world: World) -> Verdict:
    """Score each student on the images of all others, and on those of two at a time cut together; rank them.

    Args:
        contestants: two or more.
        spec: of their images.
        teacher: theirs, on the device of ``world``.
        world: whose device computes.
    """
    fit = [one for one in contestants if one.fault is None]
    crossed = _crossed(fit, spec, teacher, world)
    agreement: dict[str, dict[str, float]] = {}
    kl: dict[str, dict[str, float]] = {}
    notes = []
    for student in contestants:
        others = [one for one in fit if one.family != student.family] or [one for one in fit if one is not student]
        sources: dict[str, BlindPool | None] = {**{one.name: one.images for one in others}, **crossed}
        if not crossed and len(fit) < 2:  # all on the same images, on which the one that made them has not learnt
            own = fit[0] if fit else student
            sources = {own.name: own.held_out}
            if own is student and not student.is_control:
                notes.append(f"{student.name} is judged on its own held-out images: no others are fit for it")
        scores = {name: pool.score(student.student, world) for name, pool in sources.items() if pool is not None}
        agreement[student.name] = {name: one["agreement"] for name, one in scores.items()}
        kl[student.name] = {name: one["kl"] for name, one in scores.items()}
    pools = {**{one.name: one.images for one in contestants if one.images is not None}, **crossed}
    images = {name: pool.effective_images for name, pool in pools.items()}
    families = [one.family for one in fit]
    weights = {one.name: 1 / families.count(one.family) for one in fit}
    controls = [one.name for one in contestants if one.is_control]
    left_out = [f"{one.name}'s images judge nobody: {one.fault}" for one in contestants if one.fault is not None]
    verdict = rank(agreement, kl, images, spec.num_classes, controls, weights)
    doubts = [*([verdict.doubt] if verdict.doubt else []), *notes]
    return Verdict(
        order=verdict.order,
        agreement=verdict.agreement,
        kl=verdict.kl,
        error=verdict.error,
        near_chance=verdict.near_chance,
        doubt="; ".join(doubts) or None,
        scores=verdict.scores,
        notes=[*left_out, *verdict.notes],
    )


def _crossed(fit: Sequence[Contestant], spec: DataSpec, teacher: nn.Module, world: World) -> dict[str, BlindPool]:
    """Return, of each two families, images whose one half is the one's and whose other half is the other's."""
    first: dict[str, Tensor] = {}
    for one in sorted(fit, key=lambda one: one.name):
        assert one.images is not None, "nothing speaks against them"
        first.setdefault(one.family, one.images.as_made)
    found: dict[str, BlindPool] = {}
    for left, right in combinations(sorted(first), 2):
        count = min(len(first[left]), len(first[right]))
        mixed, others = (first[name][:count].to(world.device, copy=True) for name in (left, right))
        middle = spec.size // 2
        mixed[::2, ..., middle:] = others[::2, ..., middle:]
        mixed[1::2, ..., :middle] = others[1::2, ..., :middle]
        pool = BlindPool(spec, mix(_SEED, 1), mirrored=False)
        pool.add(mixed, 0, teacher, world)
        found[f"{left} x {right}"] = pool
    return found


def rank(
    agreement: Mapping[str, Mapping[str, float]],
    kl: Mapping[str, Mapping[str, float]],
    images: Mapping[str, float],
    num_classes: int,
    controls: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
) -> Verdict:
    """Rank students by their scores on sources: the better agreement first, or, within an error, the smaller KL.

    A student that has no scores, or one that is not finite, tells nothing of sources, and comes last with 0 %.

    Args:
        agreement: per cent by student and source; a student's own source may be missing, or be its only one.
        kl: nats, likewise.
        images: how many of equal weight each source has, for the standard error.
        num_classes: K.
        controls: students that lead no others of an agreement within the error, and of whose lead nothing is said.
        weights: what each source counts; default: 1.
    """
    names = sorted(name for name, row in agreement.items() if _is_sound(row) and _is_sound(kl[name]))
    last = sorted((name for name in agreement if name not in names), key=lambda name: (name in controls, name))
    notes = [f"{name} is last: it has no scores, or one that is not finite" for name in last]
    shown = {
        name: {key: value for key, value in row.items() if math.isfinite(value)} for name, row in agreement.items()
    }
    if not names:
        doubt = "no student has scores that are finite"
        return Verdict(order=last, agreement=dict.fromkeys(last, 0.0), kl={}, error=0.0, near_chance=True, doubt=doubt,
                       scores=shown, notes=notes)  # fmt: skip
    agreement, kl = ({name: rows[name] for name in names} for rows in (agreement, kl))
    counts = {
        name: max(1.0, images.get(name, 1.0)) for name in {source for row in agreement.values() for source in row}
    }
    odds = {
        student: {source: _log_odds(value / 100, counts[source]) for source, value in row.items()}
        for student, row in agreement.items()
    }
    weights = weights or {}
    fitted = _additive(odds, weights)
    quality = {name: 100 / (1 + math.exp(-value)) for name, value in fitted.items()}
    divergence = _additive(kl, weights)
    first = max(names, key=lambda name: quality[name])
    share, total = quality[first] / 100, sum(counts.values())
    error = 100 * math.sqrt(max(share * (1 - share), 1e-4) / max(total, 1.0))
    near = sorted((name for name in names if quality[first] - quality[name] <= error),
                  key=lambda name: (name in controls, divergence[name], name))  # fmt: skip
    rest = sorted((name for name in names if name not in near), key=lambda name: (-quality[name], name))
    order = [*near, *rest]
    rivals = [name for name in order if name not in controls]
    return Verdict(
        order=[*order, *last],
        agreement=quality | dict.fromkeys(last, 0.0),
        kl=divergence,
        error=error,
        near_chance=max((quality[name] for name in rivals), default=0.0) < near_chance_below(num_classes),
        doubt=_doubt(rivals, quality, error, num_classes, agreement, weights),
        scores=shown,
        notes=notes,
    )


def _is_sound(scores: Mapping[str, float]) -> bool:
    return bool(scores) and all(map(math.isfinite, scores.values()))


def _doubt(
    order: Sequence[str],
    quality: Mapping[str, float],
    error: float,
    num_classes: int,
    agreement: Mapping[str, Mapping[str, float]],
    weights: Mapping[str, float],
) -> str | None:
    """Say why a ranking, the best first, is not to be relied on; None if it is."""
    if not order:
        return None
    best, chance = quality[order[0]], 100 / num_classes
    if best < near_chance_below(num_classes):
        return f"all are near chance: the best agrees on {best:.0f} %, where one class alone has {chance:.0f} %"
    if len(order) == 1:
        return None
    one, other = order[:2]
    if abs(best - quality[other]) <= 2 * error:
        return (
            f"{one} and {other} differ by {abs(best - quality[other]):.1f} points, and two standard errors are "
            f"{2 * error:.1f}"
        )
    common = sorted(agreement[one].keys() & agreement[other].keys())
    against = [source for source in common if agreement[one][source] < agreement[other][source]]
    if sum(weights.get(source, 1.0) for source in against) > _AGAINST * sum(weights.get(one, 1.0) for one in common):
        return f"on the images of {', '.join(against)} {other} is better than {one}"
    return None


def _log_odds(share: float, count: float) -> float:
    margin = _LEAST_ODDS / count
    share = min(max(share, margin), 1 - margin) if margin < 0.5 else 0.5
    return math.log(share / (1 - share))


def _additive(values: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """Return what each student has of values that are a student's part plus a source's, at the mean of the sources.

    Where sources cannot be told apart the solution of the smallest norm takes them as alike.
    """
    students, sources = sorted(values), sorted({source for row in values.values() for source in row})
    cells = [
        (i, sources.index(source), value) for i, name in enumerate(students) for source, value in values[name].items()
    ]
    design = torch.zeros(len(cells), 1 + len(students) + len(sources), dtype=torch.float64)
    target = torch.tensor([value for _, _, value in cells], dtype=torch.float64)
    for row, (student, source, _) in enumerate(cells):
        design[row, 0] = design[row, 1 + student] = design[row, 1 + len(students) + source] = 1
    share = torch.tensor([weights.get(source, 1.0) for source in sources], dtype=torch.float64)
    scale = share[[source for _, source, _ in cells]].sqrt()
    solution: Tensor = torch.linalg.pinv(design * scale[:, None]) @ (target * scale)
    own, hardness = solution[1 : 1 + len(students)], solution[1 + len(students) :]
    mean = (hardness * share).sum() / share.sum()
    return {name: float(solution[0] + own[i] + mean) for i, name in enumerate(students)}
