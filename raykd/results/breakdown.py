"""How a network answers the test split, by class and by confidence: what one figure of accuracy hides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from raykd.results.base import Result

MOST_CONFUSIONS = 500
"""Pairs of a class and a wrong answer that are kept; all of them with up to 22 classes."""


class Confusion(NamedTuple):
    """So many ``images`` of a class that were given another one as ``answer``."""

    label: int
    answer: int
    images: int


class ConfidenceBin(NamedTuple):
    """The answers whose confidence lies in one of equal intervals: their mean confidence and accuracy, in per cent."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Breakdown(Result):
    """The answers of a network to the test split.

    Attributes:
        images: how many each class has.
        correct: how many of these were answered by their own class.
        confusions: wrong answers, the most frequent pairs first, ``MOST_CONFUSIONS`` at most.
        bins: by confidence, from 0 to 100 per cent; an empty one is 0, 0, 0.
    """

    images: tuple[int, ...]
    correct: tuple[int, ...]
    confusions: tuple[Confusion, ...]
    bins: tuple[ConfidenceBin, ...]

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a breakdown from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        made = cls(
            tuple(map(int, found["images"])),
            tuple(map(int, found["correct"])),
            tuple(Confusion(*map(int, one)) for one in found["confusions"]),
            tuple(ConfidenceBin(int(count), float(sure), float(right)) for count, sure, right in found["bins"]),
        )
        classes = range(len(made.images))
        if len(made.correct) != len(classes) or any(
            one.label not in classes or one.answer not in classes for one in made.confusions
        ):
            raise ValueError("it tells of other classes than it has")
        return made

    @property
    def accuracies(self) -> tuple[float | None, ...]:
        """Return the accuracy of each class in per cent; None where it has no image."""
        pairs = zip(self.correct, self.images, strict=True)
        return tuple(100 * correct / images if images else None for correct, images in pairs)


def breakdowns_from_dict(found: Mapping[str, Any]) -> dict[str, Breakdown]:
    """Rebuild breakdowns by the names of the networks.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: for anything else.
    """
    return {name: Breakdown.from_dict(one) for name, one in found.items()}
