"""What a search comes to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

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

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild the state of a search from ``to_dict``, without what was at work.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        trials = {name: int(found["trials"][name]) for name in ("target", "complete", "pruned", "failed", "running")}
        best = [
            {("test_top1" if key == "test/accuracy/top1" else key): one[key] for key in one} for one in found["best"]
        ]
        return cls(
            study=str(found["study"]),
            recipe=str(found["recipe"]),
            objectives={str(name): str(direction) for name, direction in found["objectives"].items()},
            trials=TrialCounts(**trials),
            at_work=[],
            best=[TrialResult(**one) for one in best],
            reasons=[TrialFailure(int(one["trial"]), str(one["reason"])) for one in found["reasons"]],
            images_made={str(when): int(images) for when, images in (found.get("images_made") or {}).items()},
            updated=found.get("updated"),
            failure=found.get("failure"),
        )


@dataclass(frozen=True)
class TrialRecord(Result):
    """A trial of a search, whichever way it went.

    Attributes:
        trial: its number.
        state: ``complete``, ``pruned``, ``failed`` or ``running``.
        values: by objective; of one that is pruned its last report, of the first objective. None of others.
        parameters: what makes its recipe, by dotted field.
        run: the run's id.
        test_top1: what no trial was chosen by.
    """

    trial: int
    state: str
    values: Mapping[str, float] | None
    parameters: Mapping[str, Any]
    run: str | None = None
    test_top1: float | None = field(default=None, metadata={"key": "test/accuracy/top1"})


@dataclass(frozen=True)
class SearchRecord(Result):
    """All trials of a search, for who draws or compares them.

    Attributes:
        trials: by their numbers.
        logarithmic: the fields that are searched by powers of ten.
        importances: by objective and field, which add up to 1; of no objective before there are enough trials.
    """

    trials: list[TrialRecord]
    logarithmic: list[str]
    importances: Mapping[str, Mapping[str, float]]

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a record from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        trials = []
        for one in found["trials"]:
            values, test = one["values"], one.get("test/accuracy/top1")
            trials.append(
                TrialRecord(
                    int(one["trial"]),
                    str(one["state"]),
                    None if values is None else {str(name): float(value) for name, value in values.items()},
                    dict(one["parameters"]),
                    None if one.get("run") is None else str(one["run"]),
                    None if test is None else float(test),
                )
            )
        shares = found["importances"]
        importances = {str(name): {str(k): float(v) for k, v in own.items()} for name, own in shares.items()}
        return cls(trials, [str(name) for name in found["logarithmic"]], importances)
