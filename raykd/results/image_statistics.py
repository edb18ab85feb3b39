"""What the images of a finished run look like: the mean of each class, and how far its teacher finds them off."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from raykd.results.base import Result

MOST_MEANS = 100
"""Classes whose mean image is kept, the first ones."""


@dataclass(frozen=True)
class ImageStatistics(Result):
    """Statistics of the images by which a finished run is judged.

    Attributes:
        images: how many there are of each class: of the class asked for, or, where none was, of the teacher's answers.
        means: of each class the mean image, a PNG in base64, of ``MOST_MEANS`` classes at most; empty without images.
        gaps: mean over channels of |ln(variance of the images / running variance)| at the input of each BatchNorm
            layer of the teacher, by its name, in the order in which they run.
    """

    images: tuple[int, ...]
    means: tuple[str, ...]
    gaps: Mapping[str, float]

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild statistics from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        made = cls(
            tuple(map(int, found["images"])),
            tuple(map(str, found["means"])),
            {str(name): float(gap) for name, gap in found["gaps"].items()},
        )
        if len(made.means) > len(made.images):
            raise ValueError("it tells of other classes than it has")
        return made
