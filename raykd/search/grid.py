"""What a space asks for by itself: its points, and the grid if that is how it is searched. Imports no Optuna."""

import itertools
import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from raykd.search.dimension import Dimension, parameter_of
from raykd.search.space import SearchSpace, Values


def target_of(space: SearchSpace) -> int:
    """Return how many trials there are to be: of a grid all, points included, unless the space says how many."""
    if space.sampler.name != "grid":
        return space.trials
    wanted = len(trials_wanted(space))
    return min(space.trials, wanted) if "trials" in space.model_fields_set else wanted


def trials_wanted(space: SearchSpace) -> list[Values]:
    """Return the points, then the grid if there is one, each once."""
    return _each_once([*space.points, *(grid_of(space) if space.sampler.name == "grid" else [])])


def grid_of(space: SearchSpace) -> list[Values]:
    """Return every combination of the choices and of evenly spaced numbers, without what does not apply."""
    combinations = itertools.product(*(_steps(space, dimension) for dimension in space.space.values()))
    every = (dict(zip(space.space, values, strict=True)) for values in combinations)
    return _each_once(space.drawn(partial(_given, values)) for values in every)


def same_key(values: Values) -> str:
    """Return the same for the same values, also where a whole number is written as 4 and as 4.0."""
    plain = {key: parameter_of(value) for key, value in values.items()}
    return json.dumps({k: float(v) if type(v) is int else v for k, v in plain.items()}, sort_keys=True)


def _each_once(many: Iterable[Values]) -> list[Values]:
    found: dict[str, Values] = {}
    for values in many:
        found.setdefault(same_key(values), values)
    return list(found.values())


def _given(values: Values, key: str, dimension: Dimension) -> Any:
    return values[key]


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
