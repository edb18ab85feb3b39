"""Figures of one recipe over several seeds."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

_NOT_MEASURED = ("seed", "published")


def over_seeds(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return ``mean`` and sample standard deviation (``sd``, 0 for one run) of every number that all runs have."""
    return {
        "mean": _combined(results, fmean),
        "sd": _combined(results, lambda values: stdev(values) if len(values) > 1 else 0.0),
    }


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
