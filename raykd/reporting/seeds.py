"""Figures of one recipe over several seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from raykd.results import Measured, RunResult, SeedsResult

_NOT_MEASURED = ("seed", "published")


def over_seeds(results: Sequence[RunResult]) -> SeedsResult:
    """Return mean and sample standard deviation (0 for one run) of every number that all runs have."""
    return SeedsResult(
        tuple(results),
        mean=_over(results, fmean),
        sd=_over(results, lambda values: stdev(values) if len(values) > 1 else 0.0),
    )


def _over(results: Sequence[RunResult], how: Callable[[Sequence[float]], float]) -> Measured:
    return Measured.from_dict(_combined([result.to_dict() for result in results], how))


def _combined(results: Sequence[Mapping[str, Any]], how: Any) -> dict[str, Any]:
    combined: dict[str, Any] = {}
    for key, value in results[0].items():
        others = [result.get(key) for result in results]
        if key in _NOT_MEASURED:
            continue
        if isinstance(value, Mapping) and all(isinstance(other, Mapping) for other in others):
            inner = _combined([other for other in others if isinstance(other, Mapping)], how)
            if inner:
                combined[key] = inner
        elif all(_is_number(other) for other in others):
            combined[key] = how(others)
    return combined


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
