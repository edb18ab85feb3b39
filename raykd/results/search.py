"""What a search comes to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raykd.results.base import Result


@dataclass(frozen=True)
class TrialCounts(Result):
    """How many trials a search is to have, and how many are in which state."""

    target: int
    complete: int
    pruned: int
    failed: int
    running: int

    @property
    def ended(self) -> int:
        """Return how many have ended, in whichever way."""
        return self.complete + self.pruned + self.failed


@dataclass(frozen=True)
class TrialAtWork(Result):
    """A trial that runs; ``value`` is its newest, of the first objective."""

    trial: int
    parameters: Mapping[str, Any]
    value: float | None


@dataclass(frozen=True)
class TrialResult(Result):
    """A trial of a search.

    Attributes:
        trial: its number.
        values: by objective.
        parameters: what makes its recipe, by dotted field; of a population's member those that it ended with.
        run: the run's id.
        test_top1: what no trial was chosen by.
        start, changes: of a population's member, what it began with, and what changed when.
    """

    trial: int
    values: Mapping[str, float]
    parameters: Mapping[str, Any]
    run: str | None
    test_top1: float | None = field(metadata={"key": "test/accuracy/top1"})
    start: Mapping[str, Any] | None = None
    changes: list[Any] | None = None


@dataclass(frozen=True)
class TrialFailure(Result):
    """Why a trial failed."""

    trial: int
    reason: str


@dataclass(frozen=True)
class SearchResult(Result):
    """The state of a search.

    Attributes:
        study: name of the Optuna study.
        recipe: what is varied.
        objectives: ``maximize`` or ``minimize``, by name.
        trials: their numbers.
        at_work: those that run.
        best: the best ones, the best first; with several objectives the Pareto front.
        reasons: why trials failed.
        images_made: how many images were generated, before the trials and by them.
        directory: of the search.
        updated: when this was so, in seconds since 1970.
        figures: names of those that were drawn.
        failure: why a population came to no end.
        first: the stage before, where there are two.
    """

    study: str
    recipe: str
    objectives: Mapping[str, str]
    trials: TrialCounts
    at_work: list[TrialAtWork]
    best: list[TrialResult]
    reasons: list[TrialFailure]
    images_made: Mapping[str, int] | None = None
    directory: str | None = None
    updated: float | None = None
    figures: list[str] | None = None
    failure: str | None = None
    first: "SearchResult | None" = None
