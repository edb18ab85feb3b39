"""Signs of a teacher that can be measured without training, and what one of them means for a method.

They stand below the methods, which say what signs mean for them; `raykd.methods.suitability` puts all of it together.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class TeacherSigns:
    """What has been measured of a teacher.

    Attributes:
        classes: that it knows.
        channels, size: of its input.
        batch_norms: layers with running statistics.
        no_batch_norm: why there is none, in words.
        sick: whether running statistics cannot be those of real data.
        finite: whether its answers to Gaussian inputs are.
        gradient: whether one reaches the input.
        confidence: in per cent, on Gaussian inputs.
        noise_classes: effective number of classes that it gives Gaussian inputs.
        image_confidence: as ``confidence``, on test images.
        negative_features: share of its penultimate features below 0.
        outside: share of standardised images' pixels that no image has.
        wrong_input: what hints at wrong constants of normalisation.
        train_missing: why there are no images to train on.
    """

    classes: int
    channels: int
    size: int
    batch_norms: int
    no_batch_norm: str
    sick: bool
    finite: bool
    gradient: bool
    confidence: float | None
    noise_classes: float | None
    image_confidence: float | None
    negative_features: float
    outside: float
    wrong_input: str | None
    train_missing: str | None


class Remark(NamedTuple):
    """One sign, read for one method; ``without`` names what must be left out, and the setting that does it."""

    kind: Literal["pro", "con", "without", "refused", "needs"]
    text: str


@dataclass(frozen=True)
class Suitability:
    """Whether a method can be used with a teacher: yes, only without a part of it, or not; and why."""

    remarks: tuple[Remark, ...] = field(default=())

    @property
    def verdict(self) -> Literal["usable", "limited", "refused"]:
        """Return the verdict."""
        kinds = {remark.kind for remark in self.remarks}
        return "refused" if "refused" in kinds else "limited" if "without" in kinds else "usable"

    def texts(self, kind: str) -> list[str]:
        """Return the remarks of a kind."""
        return [remark.text for remark in self.remarks if remark.kind == kind]
