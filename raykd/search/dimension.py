"""Dimension: which values one field of a recipe may take in a search, and how a study stores them."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from raykd.config.base import Config

_FRACTION = 0.61803  # of a range: no whole number lies there, unless the range is as long as 100,000


class Dimension(Config):
    """The distribution of one field, one of four, drawn in every trial or only under a condition."""

    model_config = ConfigDict(populate_by_name=True)

    uniform: tuple[float, float] | None = Field(default=None, description="a number between two, all alike likely")
    loguniform: tuple[float, float] | None = Field(
        default=None, description="a number between two, its logarithm uniform; for rates and weights"
    )
    integer: tuple[int, int] | None = Field(
        default=None, alias="int", description="a whole number between two, both included"
    )
    choice: tuple[Any, ...] | None = Field(default=None, min_length=2, description="one of these values")
    when: dict[str, Any] = Field(default={}, description="other fields and their value, or a list of values")

    @model_validator(mode="after")
    def _one_of_four(self) -> "Dimension":
        given = [name for name in ("uniform", "loguniform", "integer", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of uniform, loguniform, int and choice")
        bounds = self.bounds
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"the bounds are [low, high] with low < high; got {list(bounds)}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"a logarithmic scale starts above 0; got {list(self.loguniform)}")
        if self.choice is not None and len({repr(value) for value in self.choice}) < len(self.choice):
            raise ValueError(f"the same choice is given twice in {list(self.choice)}")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the lowest and the highest number, or None for a choice."""
        return self.uniform or self.loguniform or self.integer

    @property
    def samples(self) -> tuple[Any, ...]:
        """Return all choices, or the bounds."""
        return self.choice if self.choice is not None else tuple(self.bounds or ())

    @property
    def probes(self) -> tuple[Any, ...]:
        """Return values to try on a recipe: all choices, or the bounds and, of real numbers, a fraction between."""
        low, high = self.uniform or self.loguniform or (0.0, 0.0)
        return (*self.samples, *((low + _FRACTION * (high - low),) if low < high else ()))

    def contains(self, value: Any) -> bool:
        """Tell whether a value may be drawn."""
        if self.choice is not None:  # by type too: 1, 1.0 and True are equal in Python and not in a recipe
            return any(value == choice and type(value) is type(choice) for choice in self.choice)
        low, high = self.bounds or (0, 0)
        whole = self.integer is None or isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return isinstance(value, int | float) and not isinstance(value, bool) and whole and low <= value <= high

    def as_drawn(self, value: Any) -> Any:
        """Return a value that ``contains`` takes in the type that is drawn: of a count a whole number, also for 1e2."""
        return value if self.integer is None else int(value)

    def applies(self, drawn: Mapping[str, Any]) -> bool:
        """Tell whether the field is drawn, given the values ``drawn`` for the fields above it."""
        return all(key in drawn and drawn[key] in as_list(allowed) for key, allowed in self.when.items())


def to_parameter(value: Any) -> Any:
    """Return a value as a parameter of the study: as JSON where it is a list or mapping, which Optuna refuses."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def from_parameter(dimension: Dimension, parameter: Any) -> Any:
    """Return the value that the study stores as ``parameter``: the inverse of ``to_parameter``."""
    if dimension.choice is None:
        return parameter
    return next(value for value in dimension.choice if to_parameter(value) == parameter)


def as_list(allowed: Any) -> list[Any]:
    """Return the values that a condition allows, which it gives as one value or as a list."""
    return list(allowed) if isinstance(allowed, list) else [allowed]
