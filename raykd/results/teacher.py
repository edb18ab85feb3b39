"""What can be told of a teacher, and what is measured or chosen by one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from raykd.results.base import Result, under
from raykd.results.run import Figures


@dataclass(frozen=True)
class MethodVerdict(Result):
    """Whether a method can be used with a teacher, by measured signs.

    Attributes:
        verdict: ``usable``, ``limited`` (only without a part of it) or ``refused``.
        reasons: why it is refused, or what must be left out and by which setting.
        needs: what it takes beside the teacher.
        pros, cons: what speaks for and against it.
    """

    verdict: str
    reasons: list[str]
    needs: list[str]
    pros: list[str]
    cons: list[str]


@dataclass(frozen=True)
class Inspection(Result):
    """What can be told of a teacher without training.

    Attributes:
        source: the name of its architecture, or the function that makes it.
        data: the set that it knows; ``input`` is channels, height and width; ``mean`` and ``std`` normalise unit
            pixels for it.
        parameters, classes, feature_width, batch_norm_layers: its size.
        batch_norm_faults: layers whose statistics cannot be those of real data, by what is wrong.
        batch_norm_gap: mean over its layers and channels of |ln(variance seen / running variance)| on test images;
            None without BatchNorm or images. About 0.1 with the constants that it was trained with.
        implied_mean, implied_std: of unit pixels, per channel, as its first BatchNorm remembers them, if ``mean`` and
            ``std`` are right; None where it has none that near its input. Images have about 0.1 to 0.6 and 0.2 to 0.35.
        negative_features: share, in per cent, of its penultimate features that are below 0: none behind a ReLU.
        gradient_to_input: whether images could be learnt through it.
        notes: what is odd about it.
        test_missing: why it was not measured; None if it was.
        invertible: whether data-free methods have a chance.
        sha256: of its weights; None while its run is unfinished.
        methods: for each whether it can be used, what it needs, and what speaks for and against it.
        confidence, class_entropy, classes_answered: its answers to Gaussian inputs; None if they are not finite.
        published: what those who publish it say of its input and its classes; None of any other.
        image_confidence: its mean confidence on test images, in per cent.
        test: its figures.
    """

    source: str | None
    data: str
    input: list[int]
    mean: list[float]
    std: list[float]
    parameters: int
    classes: int
    feature_width: int
    batch_norm_layers: int
    batch_norm_faults: Mapping[str, list[str]]
    gradient_to_input: bool
    notes: list[str]
    test_missing: str | None
    invertible: bool
    sha256: str | None
    methods: Mapping[str, MethodVerdict]
    confidence: float | None = field(default=None, metadata={"key": "gaussian/confidence"})
    class_entropy: float | None = field(default=None, metadata={"key": "gaussian/class_entropy"})
    classes_answered: int | None = field(default=None, metadata={"key": "gaussian/classes_answered"})
    batch_norm_gap: float | None = None
    implied_mean: list[float] | None = None
    implied_std: list[float] | None = None
    negative_features: float | None = None
    image_confidence: float | None = None
    published: str | None = None
    test: Figures = under("", default_factory=Figures)


@dataclass(frozen=True)
class LayerWidth(Result):
    """A BatchNorm layer and its channels."""

    name: str
    channels: int


@dataclass(frozen=True)
class StatisticsResult(Result):
    """A file of what a teacher's BatchNorm layers see of each class.

    Attributes:
        file: where it is; ``bytes`` is its size.
        teacher, teacher_sha256: whose it is.
        data, split, per_class: the images that were opened.
        classes: how many there are; ``counts`` tells how many images of each there were.
        layers: what was measured.
        data_opened: see RunResult.
    """

    file: str
    bytes: int
    teacher: str
    teacher_sha256: str
    data: str
    split: str
    per_class: int
    classes: int
    counts: list[int]
    layers: list[LayerWidth]
    data_opened: Mapping[str, list[str]]


@dataclass(frozen=True)
class Ranking(Result):
    """An index of other images, those first that a teacher is least sure of.

    Attributes:
        file: where it is.
        data, split: the images; ``images`` of them, ``of`` all.
        teacher, teacher_sha256: who was asked; None while its run is unfinished.
        classes: how many it knows, of which ``classes_predicted`` occur, one on ``largest_class`` images.
        entropy_highest, entropy_lowest: of those chosen, in nats; ``entropy_of_all`` is a mean.
    """

    file: str
    data: str
    split: str
    of: int
    images: int
    teacher: str
    teacher_sha256: str | None
    classes: int
    entropy_highest: float
    entropy_lowest: float
    entropy_of_all: float
    classes_predicted: int
    largest_class: int


@dataclass(frozen=True)
class SyntheticSet(Result):
    """A data set of generated images.

    Attributes:
        set: its name; ``folder`` is where it lies.
        images: how many it has, in so many ``files``, of which ``written`` were written now.
        bank: the run of the generators; ``bank_sha256``, ``teacher_sha256`` and ``seed`` say which images they are.
    """

    set: str
    folder: str
    images: int
    files: int
    written: int
    bank: str
    bank_sha256: str
    teacher_sha256: str
    seed: str
