"""SearchSpace: which recipes a search tries, as data. A new space needs no code; neither Ray nor Optuna is known here.

``space`` maps dotted fields of a recipe to what they may be::

    method.entropy_weight: {loguniform: [0.1, 10]}
    student.model: {choice: [lenet5_half, hinton800]}
    method.temperature: {uniform: [1, 10], when: {student.model: hinton800}}

A field with ``when`` is drawn only where the fields named there, which stand above it, have such values; else it keeps
the recipe's. ``overrides`` are the same for all trials, such as a smaller budget.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

import raykd
from raykd.config import Section
from raykd.errors import UsageError, did_you_mean, unknown
from raykd.objectives import OBJECTIVES
from raykd.recipe import Recipe, load_recipe, override_pairs
from raykd.yaml_file import explain, load_yaml, parse_value

Values = dict[str, Any]
Draw = Callable[[str, "Dimension"], Any]


class Dimension(Section):
    """What a field may be: one of four distributions, everywhere or under a condition."""

    model_config = ConfigDict(populate_by_name=True)

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = Field(default=None, alias="int", description="both ends included")
    choice: tuple[Any, ...] | None = Field(default=None, min_length=2)
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
        """Return all choices, or the bounds: what must be valid for everything between to be."""
        return self.choice if self.choice is not None else tuple(self.bounds or ())

    def holds(self, value: Any) -> bool:
        """Tell whether a value may be drawn."""
        if self.choice is not None:
            return any(value == one and type(value) is type(one) for one in self.choice)
        low, high = self.bounds or (0, 0)
        whole = self.integer is None or isinstance(value, int)
        return isinstance(value, int | float) and not isinstance(value, bool) and whole and low <= value <= high

    def applies(self, drawn: Mapping[str, Any]) -> bool:
        """Tell whether the field is drawn, given the values of those above it."""
        return all(key in drawn and drawn[key] in _listed(wanted) for key, wanted in self.when.items())


class Sampler(Section):
    """Who proposes the next trial."""

    name: Literal["tpe", "random", "grid", "nsga2", "cmaes"] = "tpe"
    seed: int = Field(default=0, ge=0)
    startup: int = Field(default=8, ge=1, description="random trials before tpe and cmaes propose their own")
    grid: int = Field(default=4, ge=2, description="values of a number for grid; of a choice it takes all")


class Scheduler(Section):
    """Who ends a trial early, by its objective at its reports."""

    name: Literal["none", "asha", "median"] = "none"
    grace: int = Field(default=1, ge=1, description="reports that every trial is given")
    reduction: int = Field(default=3, ge=2, description="of asha: one in so many goes on at each rung")


class SearchSpace(Section):
    """A search: the recipe, what is varied, what is wanted, and by whose proposals."""

    name: str
    recipe: str
    overrides: dict[str, Any] = Field(default={}, description="dotted fields of the recipe, the same in all trials")
    objectives: tuple[str, ...] = Field(default=(), description="default: what suits the method")
    sampler: Sampler = Sampler()
    scheduler: Scheduler = Scheduler()
    trials: int = Field(default=24, gt=0)
    keep: int = Field(default=3, ge=1, description="best trials whose checkpoints stay")
    points: tuple[dict[str, Any], ...] = Field(default=(), description="values to try first")
    earlier: str | None = Field(
        default=None, description="folder of an earlier search of the same fields and objectives, to learn from"
    )
    space: dict[str, Dimension] = Field(min_length=1)

    @field_validator("space")
    @classmethod
    def _conditions_stand_above(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        above: dict[str, Dimension] = {}
        for key, dimension in space.items():
            for other, wanted in dimension.when.items():
                if other not in above:
                    where = "stands below it" if other in space else "is not in the space"
                    raise ValueError(f"{key!r} depends on {other!r}, which {where}{did_you_mean(other, above)}")
                if never := [value for value in _listed(wanted) if not above[other].holds(value)]:
                    raise ValueError(f"{key!r} waits for {other!r} to be {never[0]!r}, which it never is")
            above[key] = dimension
        return space

    @field_validator("objectives")
    @classmethod
    def _known(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        for name in objectives:
            if name not in OBJECTIVES:
                raise ValueError(str(unknown("objective", name, OBJECTIVES)))
        if len(set(objectives)) < len(objectives):
            raise ValueError(f"an objective is given twice in {list(objectives)}")
        return objectives

    @model_validator(mode="after")
    def _can_work(self) -> "SearchSpace":
        several = len(self.objectives) > 1
        if several and self.scheduler.name != "none":
            raise ValueError(
                f"scheduler {self.scheduler.name!r} ends trials by one objective, and there are "
                f"{len(self.objectives)}: set scheduler.name to none, or give one objective"
            )
        if several and self.sampler.name == "cmaes":
            raise ValueError("sampler 'cmaes' knows one objective only: take nsga2, tpe or random")
        if self.sampler.name == "cmaes" and not any(one.bounds for one in self.space.values()):
            raise ValueError("sampler 'cmaes' moves numbers, and the space has none: take tpe, random or grid")
        if self.sampler.name == "cmaes" and any(one.when for one in self.space.values()):
            raise ValueError("sampler 'cmaes' needs every field in every trial, and some have 'when': take tpe")
        if fixed := sorted(set(self.overrides) & set(self.space)):
            raise ValueError(f"{fixed[0]!r} is both in overrides, so fixed, and in the space")
        for point in self.points:
            for key, value in point.items():
                if key not in self.space:
                    raise ValueError(f"a point names {key!r}, which is not in the space{did_you_mean(key, self.space)}")
                if not self.space[key].holds(value):
                    raise ValueError(f"a point has {key!r} at {value!r}, outside of {list(self.space[key].samples)}")
        return self

    def drawn(self, draw: Draw) -> Values:
        """Return the values of a trial, in the order of the space: define by run."""
        values: Values = {}
        for key, dimension in self.space.items():
            if dimension.applies(values):
                values[key] = draw(key, dimension)
        return values

    @property
    def holds_out(self) -> bool:
        """Tell whether images are held out that the recipe by itself would learn from."""
        return "data.holdout" in self.overrides

    def recipe_of(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a trial: what `raykd train` makes of the same overrides, without controls.

        Raises:
            UsageError: if they do not make a recipe.
        """
        recipe = load_recipe(self.recipe, override_pairs({**self.overrides, **values}))
        return recipe.model_copy(update={"controls": ()})

    def check(self) -> None:
        """Try both ends of every number and every choice on the recipe.

        Raises:
            UsageError: for a key that the recipe has not, or a value that it does not take, naming them.
        """
        self.recipe_of({})
        for key, dimension in self.space.items():
            for conditions in self._conditions(dimension):
                for value in dimension.samples:
                    try:
                        self.recipe_of({**conditions, key: value})
                    except UsageError as error:
                        raise UsageError(f"space {self.name!r}, {key} at {value!r}: {error}") from None

    def _conditions(self, dimension: Dimension) -> Iterator[Values]:
        """Yield every combination of values under which a field is drawn, with what those depend on in turn."""
        for values in product(*(_listed(wanted) for wanted in dimension.when.values())):
            own = dict(zip(dimension.when, values, strict=True))
            outer = [dict(inner) for key in own for inner in self._conditions(self.space[key]) if inner]
            yield {**{key: value for inner in outer for key, value in inner.items()}, **own}


def parameter_of(value: Any) -> Any:
    """Return a value as a study keeps it, where a choice may be no list or mapping."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def value_of(dimension: Dimension, parameter: Any) -> Any:
    """Return the value that a study keeps as ``parameter``."""
    if dimension.choice is None:
        return parameter
    return next(value for value in dimension.choice if parameter_of(value) == parameter)


def load_space(source: str, overrides: Iterable[str] = ()) -> SearchSpace:
    """Load a space by name or path; ``KEY=VALUE`` pairs fix fields of the recipe, and so are searched no more.

    Raises:
        UsageError: for an unknown name, key or value, naming the nearest match.
    """
    path = _find(source)
    raw = load_yaml(path)
    if "name" in raw:
        raise UsageError(f"{path}: 'name' is not a field here; a space is called like its file")
    fixed = dict(raw.get("overrides") or {})
    for pair in overrides:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"expected KEY=VALUE, as in schedule.steps=100; got {pair!r}")
        fixed[key] = parse_value(text)
    for key in fixed.keys() - (raw.get("overrides") or {}).keys():
        raw = _without(raw, key, fixed[key])
    try:
        space = SearchSpace.model_validate({**raw, "name": path.stem, "overrides": fixed})
    except ValidationError as error:
        raise explain(error, str(path), set(SearchSpace.model_fields) - {"name"}) from None
    space.check()
    return space


def space_files() -> dict[str, Path]:
    """Return the files of the spaces that have names: packaged ones, and the user's own in ./search_spaces."""
    package = Path(raykd.__file__).parent
    # A wheel carries the files inside the package, a checkout beside it; the user's own come first.
    folders = (package.parent / "search_spaces", package / "search_spaces", Path("search_spaces"))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _find(source: str) -> Path:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or "/" in source:
        if not path.is_file():
            raise UsageError(f"no search space file {source!r}; `raykd list spaces` shows the named ones")
        return path
    known = space_files()
    if source not in known:
        raise unknown("search space", source, known)
    return known[source]


def _without(raw: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a raw file whose space lacks a field that is fixed now, and those that wait for another value of it."""
    space = raw.get("space")
    if not isinstance(space, dict) or key not in space:
        return raw
    left = {}
    for other, dimension in space.items():
        when = dimension.get("when") if isinstance(dimension, dict) else None
        if other == key or (when and key in when and value not in _listed(when[key])):
            continue
        kept = {name: wanted for name, wanted in (when or {}).items() if name != key}
        left[other] = {**dimension, "when": kept} if when else dimension
    return {**raw, "space": left}


def _listed(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, list) else [wanted]
