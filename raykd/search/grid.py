"""The trials that a space itself gives: its points, and the grid where the sampler is ``grid``. Imports no Optuna."""

import itertools
import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from raykd.search.dimension import Dimension, to_parameter
from raykd.search.space import SearchSpace, Values


def count_trials(space: SearchSpace) -> int:
    """Return how many trials a sampled search makes: a whole grid with the points, unless ``trials`` is given."""
    if space.sampler.name != "grid":
        return space.trials
    whole = len(list_given(space))
    return min(space.trials, whole) if "trials" in space.model_fields_set else whole


def list_given(space: SearchSpace) -> list[Values]:
    """Return the values of the points, then of the grid if there is one, each once."""
    points = [{key: space.space[key].as_drawn(value) for key, value in point.items()} for point in space.points]
    return _without_repeats([*points, *(make_grid(space) if space.sampler.name == "grid" else [])])


def make_grid(space: SearchSpace) -> list[Values]:
    """Return every combination of the choices and of evenly spaced numbers, without what does not apply."""
    combinations = itertools.product(*(_steps(space, dimension) for dimension in space.space.values()))
    points = (dict(zip(space.space, values, strict=True)) for values in combinations)
    # Combinations that differ only in a field that does not apply are one.
    return _without_repeats(space.draw(partial(_look_up, point)) for point in points)


def canonical_key(values: Values) -> str:
    """Return a key that equal values share, also where a whole number is written as 4 and as 4.0."""
    plain = {key: to_parameter(value) for key, value in values.items()}
    return json.dumps({k: float(v) if type(v) is int else v for k, v in plain.items()}, sort_keys=True)


def _without_repeats(points: Iterable[Values]) -> list[Values]:
    unique: dict[str, Values] = {}
    for values in points:
        unique.setdefault(canonical_key(values), values)
    return list(unique.values())


def _look_up(point: Values, key: str, dimension: Dimension) -> Any:
    return point[key]


def _steps(space: SearchSpace, dimension: Dimension) -> list[Any]:
    if dimension.choice is not None:
        return list(dimension.choice)
    count = space.sampler.grid
    if dimension.integer is not None:
        first, last = dimension.integer
        return sorted({round(first + (last - first) * step / (count - 1)) for step in range(count)})
    low, high = dimension.bounds or (0.0, 1.0)
    if dimension.loguniform is not None:
        return [low * (high / low) ** (step / (count - 1)) for step in range(count - 1)] + [high]
    return [low + (high - low) * step / (count - 1) for step in range(count)]
