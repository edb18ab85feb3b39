"""What a run comes to, and several seeds of it, and its student measured again.

Units: accuracy, agreement and expected calibration error in per cent; kl in nats; seconds of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from raykd.results.base import KEYS, Result, under

SELECTIONS = ("last", "blind", "best")
"""The students that a run keeps: of the last step, the one chosen without a look at real images, and the oracle's."""


@dataclass(frozen=True)
class Figures(Result):
    """How good one network is on the test split, and on synthetic images. None: not measured.

    Attributes:
        step: the step that it is of.
        top1: accuracy.
        top5: likewise, where there are more than 5 classes.
        agreement: how often its answer is its teacher's.
        kl: KL(teacher || student).
        ece: expected calibration error.
        synthetic_agreement, synthetic_kl: on the images of blind selection, means over the teacher's classes.
        more: figures on other images, such as ``holdout/agreement`` or ``referee/kl``.
    """

    step: float | None = None
    top1: float | None = None
    top5: float | None = None
    agreement: float | None = None
    kl: float | None = None
    ece: float | None = None
    synthetic_agreement: float | None = None
    synthetic_kl: float | None = None
    more: Mapping[str, float] = under("", default_factory=dict)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild figures from ``to_dict``; entries of other names are kept in ``more``."""
        names = {KEYS.get(each.name, each.name): each.name for each in fields(cls) if each.name != "more"}
        own = {names[key]: value for key, value in found.items() if key in names}
        return cls(**own, more={key: value for key, value in found.items() if key not in names})


@dataclass(frozen=True, kw_only=True)
class Measured(Result):
    """The numbers of a run, or of several seeds of it: their mean or their standard deviation.

    Attributes:
        last, blind, best: the student of each selection; None where the run trains none.
        teacher: its teacher, where there is one and a test split.
        image_quality: of generated images, see ``raykd.engine.quality``: ``hit``, ``classes``, ``pixel_diversity``, ...
        images: how many the student was shown, or the generators made.
        seconds: of training, those of earlier parts included.
        teacher_forwards: what was computed, in forward passes of the teacher for one image, see
            ``raykd.models.compute``; None where that could not be counted.
        gpu_hours: 0 without GPUs.
        phases: seconds by what they were spent on, see ``raykd.distributed.phases``; what is before and behind the
            training is among it.
        controls: the runs beside it, by the names of their recipes.
    """

    last: Figures | None = None
    blind: Figures | None = None
    best: Figures | None = None
    teacher: Figures | None = under("teacher/", default=None)
    image_quality: Mapping[str, float] = under("images/", default_factory=dict)
    images: float | None = None
    seconds: float | None = None
    teacher_forwards: float | None = None
    gpu_hours: float | None = None
    phases: Mapping[str, float] | None = None
    controls: "Mapping[str, Measured] | None" = None
    more: Mapping[str, Any] = under("", default_factory=dict)

    @property
    def students(self) -> dict[str, Figures]:
        """Return the figures of each selection that there are."""
        return _students(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a result from ``to_dict``, of an earlier version too: what it lacks is None, what else it has stays.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: for anything else.
        """
        rest = dict(found)
        own: dict[str, Any] = {}
        for name in SELECTIONS:
            if name in rest:
                own[name] = Figures.from_dict(dict(rest.pop(name)))
        if teacher := _taken(rest, "teacher/"):
            own["teacher"] = Figures.from_dict(teacher)
        own["image_quality"] = _taken(rest, "images/")
        if "controls" in rest:
            own["controls"] = {name: cls.from_dict(inner) for name, inner in rest.pop("controls").items()}
        plain = {each.name for each in fields(cls) if "prefix" not in each.metadata} - own.keys()
        own |= {key: rest.pop(key) for key in plain & rest.keys()}
        return cls(**own, more=rest)


def _taken(found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Take the entries of a prefix out, and return them without it."""
    return {key.removeprefix(prefix): found.pop(key) for key in list(found) if key.startswith(prefix)}


def _students(of: "Measured | Evaluation") -> dict[str, Figures]:
    found = {"last": of.last, "blind": of.blind, "best": of.best}
    return {name: figures for name, figures in found.items() if figures is not None}


@dataclass(frozen=True, kw_only=True)
class RunResult(Measured):
    """What a finished run comes to.

    Attributes:
        run: its id, which names its directory in the store.
        seed: of the recipe.
        selected: which selection counts; None where the run trains no student.
        data_opened: ``name/split`` of every data set that was opened, by role; an unused role has none.
        published: the paper's figures, top-1.
        directory: path or address of the run's directory, where the caller is told it.
        not_judged: why the students' figures on synthetic images say nothing; None if they do, or there are none.
        warnings: what speaks against the figures, such as generated images of one class; None if nothing does.
        rewinds: steps that the run went back ``to``, with halved rates and other noise, and ``cause``; None if none.
    """

    run: str
    seed: int
    selected: str | None = None
    data_opened: Mapping[str, list[str]] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    controls: "Mapping[str, RunResult] | None" = None
    directory: str | None = None
    not_judged: str | None = None
    warnings: list[str] | None = None
    rewinds: list[Mapping[str, Any]] | None = None

    @property
    def student(self) -> Figures:
        """Return the figures of the student that counts; all None where the run trains none."""
        return self.students.get(self.selected or "", Figures())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, what it is about first."""
        found = super().to_dict()
        return {key: found[key] for key in ("run", "seed", "selected") if key in found} | found


@dataclass(frozen=True)
class SeedsResult(Result):
    """A recipe with several seeds: ``mean`` and sample standard deviation ``sd`` of every number that all runs have."""

    runs: tuple[RunResult, ...]
    mean: Measured
    sd: Measured


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """A run's student, measured again.

    Attributes:
        run: the run's id.
        finished: whether the run is; of one that is not, all students of its last checkpoint are measured.
        selected: which selection counts.
        step: how far the run is.
        last, blind, best: the students that are saved.
        teacher: its teacher, where that is found.
        teacher_missing: why there is no teacher to compare with; None if there is, or the method has none.
        data_opened: see RunResult, and so ``published``.
        directory: where the run is, where the caller is told it.
    """

    run: str
    finished: bool
    selected: str
    step: int
    teacher_missing: str | None
    data_opened: Mapping[str, list[str]]
    published: Mapping[str, float]
    last: Figures | None = None
    blind: Figures | None = None
    best: Figures | None = None
    teacher: Figures | None = under("teacher/", default=None)
    directory: str | None = None

    @property
    def students(self) -> dict[str, Figures]:
        """Return the figures of each saved selection."""
        return _students(self)

    @property
    def student(self) -> Figures:
        """Return the figures of the student that counts."""
        return self.students[self.selected]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, the figures of the student that counts at the top."""
        return {**self.student.to_dict(), **super().to_dict()}
