"""Watch over a run by the figures of its reports: tell where they mean nothing, and end the run or send it back.

A generator that makes images of one class pleases its blind figures: a student that always answers that class agrees
with the teacher on all of them.

Signs are read off the rows of reports alone, which are on the disk before the checkpoint of their step: a run that was
killed and goes on comes to the same verdicts.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from raykd.engine.finite import Unhealthy
from raykd.recipe.sections import SentinelConfig

logger = logging.getLogger(__name__)

Row = Mapping[str, float]
"""The figures of a report."""

CLASS_SPREAD = "images/class_spread"
"""Report key: how evenly the teacher's answers to generated images cover the classes, see ``class_spread``."""
CLASSES = "images/classes"
"""Report key: effective number of classes of generated images, see ``effective_classes``."""
RAREST, RAREST_CLASS = "images/rarest", "images/rarest_class"
"""Report keys: images of the rarest class in per cent of an equal share, and which class it is."""
DIVERSITY = "images/pixel_diversity"
"""Report key, see ``raykd.engine.quality``."""
HIT = "images/hit"
"""Report key of a bank in training: images, in per cent, that the teacher takes for the class that they are for."""
LEAST_HIT, LEAST_HIT_CLASS, MISSED = "images/least_hit", "images/least_hit_class", "images/missed_classes"
"""Report keys, see ``member_figures``: of the class with the fewest hits, and how many classes have too few."""
LEAST_DIVERSITY, LEAST_DIVERSITY_CLASS = "images/least_diversity", "images/least_diversity_class"
ALIKE = "images/alike_classes"
"""Report keys, see ``member_figures``: of the class whose images differ least, and of how many they are alike."""
PROGRESS = "images/progress"
"""Report key of a bank: the per cent of their steps that the generators have behind them; at 100 they are finished."""
_WORST = ((LEAST_HIT, LEAST_HIT_CLASS), (LEAST_DIVERSITY, LEAST_DIVERSITY_CLASS))
MEMBER_FIGURES = (MISSED, ALIKE, *_WORST[0], *_WORST[1])
"""All of ``member_figures``."""
WAITING_OTHERS, WAITING_LEAST, LEAST_RANK = "waiting/others", "waiting/least", "waiting/least_rank"
"""Report keys of several workers on CPUs: the share of its time, in per cent, in which the worker that waits least has
waited for others, its rank, and the mean of the others' shares."""
STRAGGLER = "straggler"
"""Kind of the warning that says nothing against a run's figures."""
_WAITS = 33.0  # per cent of the others' time; then a worker that waits half as much is a straggler
_COLLAPSED = 50.0  # per cent of CLASS_SPREAD; healthy runs end above 75, and one of 20 had 33 per cent right
_STARVED = 5.0  # per cent of RAREST; healthy runs soon have 25 and more
_STARVING = 4  # reports: a class may come late
_GROWN = 33.0  # per cent of PROGRESS; before it a generator may not know its class yet
_MISSED = 25.0  # per cent of the images made for a class; healthy generators soon have 90 and more
_OF_MEMBERS = ("starvation", "sameness")
_ALIKE = 5.0  # per cent of DIVERSITY; healthy runs have 50 and more
_EXPLODED = 1e6  # of a loss, and of the norm of a network's parameters
_PLATEAU = 8  # reports
_MOVED = 1.0  # per cent: from the mean of the older half of these to that of the newer
_FAR = 50.0  # per cent of blind agreement, above which it may stay where it is
_STILL = 4  # reports at which the norm of the student's parameters is the same
_QUALITIES = ("agreement", "blind/agreement", "accuracy/top1")


def parameter_norms(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """Return the l2 norm of each network's parameters: not finite as soon as one parameter is not."""
    return {
        f"parameters/{name}": torch.nn.utils.get_total_norm(network.parameters()).item()
        for name, network in networks.items()
    }


def class_spread(effective_classes: float, num_classes: int) -> float:
    """Return 100 (n - 1) / (K - 1) of n effective classes among K: 0 where there is one, 100 where all are alike."""
    return 100 * (effective_classes - 1) / (num_classes - 1)


def effective_classes(labels: Tensor, num_classes: int) -> float:
    """Return exp of the entropy of class labels, int64 (N,): K where all classes are equally frequent, 1 for one."""
    share = labels.bincount(minlength=num_classes).double() / len(labels)
    return float((-(share * share.clamp(min=1e-12).log()).sum()).exp())


def class_figures(labels: Tensor, num_classes: int) -> dict[str, float]:
    """Return what a report says of the teacher's answers to generated images, int64 (N,); nothing of too few images."""
    if len(labels) < 5 * num_classes:  # even uniform answers leave classes out
        return {}
    effective = effective_classes(labels, num_classes)
    found = {CLASSES: effective, CLASS_SPREAD: class_spread(effective, num_classes)}
    if len(labels) >= 20 * num_classes:
        rarest, label = labels.bincount(minlength=num_classes).min(0)
        found |= {RAREST: 100 * rarest.item() * num_classes / len(labels), RAREST_CLASS: float(label)}
    return found


def member_figures(hits: Tensor, diversity: Tensor) -> dict[str, float]:
    """Return what a report says of the worst of a bank's classes.

    Args:
        hits: per cent of the images made for each class that the teacher takes for it, (K,); NaN for classes without
            images.
        diversity: of the images of each class in per cent, see ``raykd.engine.quality``, (K,); NaN for such classes.
    """
    found = {MISSED: float((hits < _MISSED).sum()), ALIKE: float((diversity < _ALIKE).sum())}
    for (name, label), values in zip(_WORST, (hits, diversity), strict=True):
        if not values.isnan().all():
            least, cls = values.nan_to_num(nan=torch.inf).min(0)
            found |= {name: least.item(), label: float(cls)}
    return found


def _as_judged(row: Row, finished: Row) -> Row:
    """Return a report's figures without the hits of young generators, with those of others that are finished."""
    hits = (MISSED, *_WORST[0]) if row.get(PROGRESS, 100.0) < _GROWN else ()
    judged = {name: value for name, value in row.items() if name not in hits}
    judged |= {name: judged.get(name, 0.0) + finished[name] for name in (MISSED, ALIKE) if name in finished}
    for name, label in _WORST:
        if finished.get(name, torch.inf) < judged.get(name, torch.inf):
            judged |= {name: finished[name], label: finished[label]}
    return judged


def find_warnings(rows: Sequence[Row]) -> list[str]:
    """Return what the figures of the last of these reports say against the run, each with its likely causes."""
    found, row = [], rows[-1]
    spread = row.get(CLASS_SPREAD)
    if spread is not None and spread < _COLLAPSED:
        found.append(
            f"collapse: to the teacher the generated images are of few classes (spread {spread:.0f} of 100), so blind "
            "agreement tells nothing; a weight on balanced classes (method.entropy_weight), a larger batch or a lower "
            "generator rate (method.generator_optim.lr) may help, or data.mean and data.std are not the teacher's"
        )
    elif all(each.get(RAREST, 100.0) < _STARVED for each in rows[-_STARVING:]) and len(rows) >= _STARVING:
        found.append(
            f"starvation: the teacher sees hardly any generated image as class {row[RAREST_CLASS]:.0f} "
            f"({row[RAREST]:.1f} % of an equal share), so the student does not learn it; a larger weight on balanced "
            "classes (method.entropy_weight, method.balance_weight) or a larger batch may help"
        )
    if row.get(MISSED):
        found.append(
            f"starvation: the teacher takes {row[LEAST_HIT]:.0f} % of the images made for class "
            f"{row[LEAST_HIT_CLASS]:.0f} for it{_and_others(row[MISSED])}, so no student learns it from them; a larger "
            "weight on the class (method.class_weight), more steps or another rate (method.generator_optim.lr) may help"
        )
    if row.get(ALIKE):
        found.append(
            f"sameness: the images made for class {row[LEAST_DIVERSITY_CLASS]:.0f} are all alike (diversity "
            f"{row[LEAST_DIVERSITY]:.1f} %){_and_others(row[ALIKE])}, so a student sees next to nothing; a larger "
            "weight on moments (method.moment_weight), a lower rate (method.generator_optim.lr) or a new seed may help"
        )
    elif row.get(DIVERSITY, 100.0) < _ALIKE:
        found.append(
            f"sameness: the generated images of a class are all alike (diversity {row[DIVERSITY]:.1f} %), so the "
            "student sees next to nothing; a lower generator rate (method.generator_optim.lr) or another seed may help"
        )
    exploded = sorted(
        name for name, value in row.items() if name.startswith(("loss/", "parameters/")) and abs(value) > _EXPLODED
    )
    if exploded:
        found.append(f"explosion: {', '.join(exploded)} above {_EXPLODED:g}; lower a learning rate or that weight")
    if straggler := find_straggler(row):
        found.append(f"{STRAGGLER}: {straggler}")
    agreements = [each["blind/agreement"] for each in rows[-_PLATEAU:] if "blind/agreement" in each]
    if len(agreements) == _PLATEAU and max(agreements) < _FAR:
        half = _PLATEAU // 2
        if sum(agreements[half:]) - sum(agreements[:half]) < half * _MOVED:
            found.append(
                f"plateau: blind agreement has stayed at {agreements[-1]:.0f} % for {_PLATEAU} reports; the student's "
                "rate (student_optim.lr) may be too high or too low, or the generator changes faster than the student "
                "follows (method.generator_optim.lr)"
            )
    still = [each.get("parameters/student") for each in rows[-_STILL:]]
    qualities = [row[name] for name in _QUALITIES if name in row]
    if len(still) == _STILL and still[0] is not None and len(set(still)) == 1 and qualities and max(qualities) < _FAR:
        found.append(
            f"dead: the student's parameters have not changed for {_STILL} reports; its rate (student_optim.lr) is too "
            "low, or no gradient reaches them"
        )
    return found


def _and_others(classes: float) -> str:
    """Return that as much holds of others of so many classes."""
    return f", and hardly more of {classes - 1:.0f} others" if classes > 1 else ""


def find_straggler(row: Row) -> str | None:
    """Return what a report's figures say of a worker for which the others wait; None if they do for none."""
    others, least = row.get(WAITING_OTHERS, 0.0), row.get(WAITING_LEAST, 0.0)
    if others < _WAITS or least > others / 2:
        return None
    return (
        f"worker {row[LEAST_RANK]:.0f} computes {100 - least:.0f} % of the time and the others {100 - others:.0f} %, "
        "who wait for it: its machine is slower or busy, or its share of the work is larger"
    )


class Sentinel:
    """Judges each report; what two in a row say is logged once, and ends the run where its recipe says so.

    A straggler costs time and says nothing against the figures: it is logged, and ends no run.

    Attributes:
        sound_step: step of the latest report that has nothing against it, nor have those before it since; 0 before one.
    """

    def __init__(
        self, config: SentinelConfig, earlier: Iterable[Row] = (), *, since: int = 0, standing: Sequence[str] = ()
    ) -> None:
        """Take the rows of ``earlier`` reports; those up to the step ``since`` count for no plateau.

        What is ``standing`` against the run from its beginning ends no run.
        """
        self._config, self._since, self._standing = config, since, list(standing)
        self._found: list[str] = []
        self.sound_step = 0
        self._told: set[str] = set()
        self._rows: list[Row] = []
        self._finished: Row = {}
        for row in earlier:
            self._take(row)

    @property
    def warnings(self) -> list[str]:
        """Return what was said against the run before its first step, and what the latest report says."""
        return [*self._standing, *self._found]

    @property
    def kept_step(self) -> int | None:
        """Return the step whose checkpoint must stay, since the run may go back to it; None if it never does."""
        return None if self._config.policy == "warn" else self.sound_step

    def look(self, row: Row) -> None:
        """Take the figures of a report, before it is published.

        Raises:
            Unhealthy: with the policies stop and rewind, when two reports in a row say the same against the run.
        """
        confirmed = self._take(row)
        for kind in confirmed.keys() - self._told:
            self._told.add(kind)
            logger.warning("step %.0f: %s", row.get("step", 0), confirmed[kind])
        signs = [text for kind, text in confirmed.items() if kind != STRAGGLER]
        if signs and self._config.policy != "warn":
            where = ", where these generators end" if row.get(PROGRESS) == 100 else " and the report before it"
            raise Unhealthy(f"{'; '.join(signs)} (at step {row['step']:.0f}{where})")

    def _take(self, row: Row) -> dict[str, str]:
        """Add a row and return its warnings, by kind, that the row before it has too.

        What it says of finished generators is final: it needs no second report, and holds in all later ones.
        """
        before = {kind_of(text) for text in self._found}
        row = _as_judged(row, self._finished)
        if row.get(PROGRESS) == 100:
            before.update(_OF_MEMBERS)
            self._finished = {name: row[name] for name in MEMBER_FIGURES if name in row}
        self._rows = [*(one for one in self._rows[1 - _PLATEAU :] if one["step"] > self._since), row]
        self._found = find_warnings(self._rows)
        if all(kind_of(text) == STRAGGLER for text in self._found):
            self.sound_step = int(row["step"])
        return {kind_of(text): text for text in self._found if kind_of(text) in before}


def kind_of(warning: str) -> str:
    """Return the one word that a warning begins with, such as collapse."""
    return warning.partition(":")[0]
