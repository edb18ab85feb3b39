"""SearchSpace: which recipes a search tries, as data. A new space needs no code; neither Ray nor Optuna is known here.

``space`` maps dotted fields of a recipe to what they may be::

    method.entropy_weight: {loguniform: [0.1, 10]}
    student.model: {choice: [lenet5_half, hinton800]}
    method.temperature: {uniform: [1, 10], when: {student.model: hinton800}}

A field with ``when`` is drawn only where the fields named there, which stand above it, have such values; else it keeps
the recipe's. ``overrides`` are the same for all trials, such as a smaller budget.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raykd.config.base import Config
from raykd.config.overrides import override_pairs
from raykd.errors import UsageError, did_you_mean, unknown
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.recipe.sections import BankConfig, TeacherConfig
from raykd.search.dimension import Dimension, as_list
from raykd.search.objectives import OBJECTIVES

Values = dict[str, Any]
"""Values of a trial, by the dotted field of the recipe."""
DrawField = Callable[[str, Dimension], Any]


class Sampler(Config):
    """The sampler that proposes the next trial."""

    name: Literal["tpe", "random", "grid", "nsga2", "cmaes"] = Field(
        default="tpe",
        description="tpe learns from earlier trials, so do nsga2 (several objectives) and cmaes (numbers)",
    )
    seed: int = Field(default=0, ge=0, description="of what is proposed")
    startup: int = Field(default=8, ge=1, description="random trials before tpe and cmaes propose their own")
    grid: int = Field(default=4, ge=2, description="values of a number for grid; of a choice it takes all")


class Scheduler(Config):
    """The rule that ends a trial early by its reports, or lets it go on from a better one with other numbers.

    ``pbt`` is population-based training (Jaderberg et al. 2017, arXiv 1711.09846): all trials train side by side;
    every ``interval`` reports the worst ``quantile`` of them go on from copies of the best, with each number multiplied
    by 0.8 or 1.2, or drawn anew.
    """

    name: Literal["none", "asha", "median", "pbt"] = Field(
        default="none", description="asha and median end poor trials early; pbt is population-based training"
    )
    grace: int = Field(default=1, ge=1, description="of asha and median: reports that every trial is given")
    reduction: int = Field(default=3, ge=2, description="of asha: one in so many goes on at each rung")
    interval: int = Field(default=1, ge=1, description="of pbt: reports from one comparison to the next")
    quantile: float = Field(default=0.25, gt=0, le=0.5, description="of pbt: the share that is replaced")
    resample: float = Field(default=0.25, ge=0, le=1, description="of pbt: how likely a number is drawn anew")


class SearchSpace(Config):
    """A search: the recipe, the fields that vary, the objectives, and how trials are proposed and ended."""

    name: str = Field(description="that of its file")
    recipe: str = Field(description="what is varied: a packaged name or a file")
    overrides: dict[str, Any] = Field(default={}, description="dotted fields of the recipe, the same in all trials")
    objectives: tuple[str, ...] = Field(default=(), description="default: what suits the method")
    sampler: Sampler = Field(default=Sampler(), description="what proposes the values of a trial")
    scheduler: Scheduler = Field(default=Scheduler(), description="what ends trials early")
    trials: int = Field(default=24, gt=0, description="how many; a grid is tried whole unless fewer are asked for here")
    seeds: int = Field(default=1, ge=1, description="runs of each trial, from the recipe's seed up; their mean counts")
    keep: int = Field(default=3, ge=1, description="best trials whose checkpoints and images stay")
    points: tuple[dict[str, Any], ...] = Field(default=(), description="values to try first")
    earlier: str | None = Field(
        default=None, description="folder of an earlier search of the same fields and objectives, to learn from"
    )
    space: dict[str, Dimension] = Field(min_length=1, description="dotted fields of the recipe, and what each may be")
    images: int | None = Field(default=None, gt=0, description="of a second stage: so many of the first one's best")
    then: "SearchSpace | None" = Field(
        default=None, description="a second stage: students of a frozen set that the best generators of this one make"
    )

    @field_validator("space")
    @classmethod
    def _conditions_stand_above(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        above: dict[str, Dimension] = {}
        for key, dimension in space.items():
            for other, allowed in dimension.when.items():
                if other not in above:
                    where = "stands below it" if other in space else "is not in the space"
                    raise ValueError(f"{key!r} depends on {other!r}, which {where}{did_you_mean(other, above)}")
                if above[other].uniform is not None or above[other].loguniform is not None:
                    raise ValueError(
                        f"{key!r} waits for {other!r} to be {allowed!r}, which a number drawn from a range hardly ever "
                        "is: make that one a choice or an int"
                    )
                if never := [value for value in as_list(allowed) if not above[other].contains(value)]:
                    raise ValueError(f"{key!r} waits for {other!r} to be {never[0]!r}, which it never is")
            above[key] = dimension
        return space

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        for name in objectives:
            if name not in OBJECTIVES:
                raise ValueError(str(unknown("objective", name, OBJECTIVES)))
        if len(set(objectives)) < len(objectives):
            raise ValueError(f"an objective is given twice in {list(objectives)}")
        return objectives

    @model_validator(mode="after")
    def _parts_fit(self) -> "SearchSpace":
        several = len(self.objectives) > 1
        if several and self.scheduler.name != "none":
            raise ValueError(
                f"scheduler {self.scheduler.name!r} ends trials by one objective, and there are "
                f"{len(self.objectives)}: set scheduler.name to none, or give one objective"
            )
        if several and self.sampler.name == "cmaes":
            raise ValueError("sampler 'cmaes' knows one objective only: take nsga2, tpe or random")
        if self.sampler.name == "cmaes" and not any(dimension.bounds for dimension in self.space.values()):
            raise ValueError("sampler 'cmaes' moves numbers, and the space has none: take tpe, random or grid")
        if self.sampler.name == "cmaes" and any(dimension.when for dimension in self.space.values()):
            raise ValueError("sampler 'cmaes' needs every field in every trial, and some have 'when': take tpe")
        if self.scheduler.name == "pbt":
            self._refuse_for_population()
        if self.seeds > 1 and "seed" in self.space:
            raise ValueError(
                f"'seed' is in the space, and each trial has {self.seeds} of them: leave out one of the two"
            )
        if fixed := sorted(set(self.overrides) & set(self.space)):
            raise ValueError(f"{fixed[0]!r} is both in overrides, so fixed, and in the space")
        for point in self.points:
            for key, value in point.items():
                if key not in self.space:
                    raise ValueError(f"a point names {key!r}, which is not in the space{did_you_mean(key, self.space)}")
                if self.space[key].choice is None and isinstance(value, str):
                    raise ValueError(
                        f"a point has {key!r} at the text {value!r}, and a number in {list(self.space[key].samples)} "
                        "is allowed: write digits without quotes"
                    )
                if not self.space[key].contains(value):
                    raise ValueError(f"a point has {key!r} at {value!r}, outside of {list(self.space[key].samples)}")
        return self

    def _refuse_for_population(self) -> None:
        """Refuse what population-based training cannot do: it changes numbers during one training a member."""
        if "name" in self.sampler.model_fields_set and self.sampler.name != "random":
            raise ValueError(
                f"scheduler 'pbt' finds new values by itself, so sampler {self.sampler.name!r} has no say: take random"
            )
        for key, dimension in self.space.items():
            if dimension.choice is not None or dimension.integer is not None or dimension.when:
                raise ValueError(
                    f"scheduler 'pbt' changes numbers during a training, and {key!r} is a choice, a count or under a "
                    "condition: give uniform or loguniform, or take asha"
                )
        if self.trials == 1:
            raise ValueError("scheduler 'pbt' lets the worse members go on from the better, and trials is 1: give more")
        if len(self.points) > self.trials:
            raise ValueError(
                f"points are the first members of 'pbt', and there are {len(self.points)} for {self.trials} members: "
                "leave some out, or raise trials"
            )
        if self.earlier is not None:
            raise ValueError("no sampler proposes for 'pbt' that could learn from 'earlier': leave it out")
        if self.seeds > 1:
            raise ValueError(
                f"members of 'pbt' are compared on their way, so a trial has one run, not seeds: {self.seeds}"
            )
        if self.then is not None:
            raise ValueError("'then' makes images of generators of one recipe without 'changes': leave out 'pbt'")

    @model_validator(mode="after")
    def _stages_fit(self) -> "SearchSpace":
        if self.then is None:
            return self
        if self.then.then is not None:
            raise ValueError("'then' stands in 'then': a search has two stages at most")
        if self.then.images is None:
            raise ValueError("say how large the frozen set is: 'then.images', such as 20000")
        if "bank" in {key.partition(".")[0] for key in (*self.then.overrides, *self.then.space)}:
            raise ValueError("'then' takes the generators of the first stage: leave 'bank' out of its fields")
        if len(self.objectives) > 1:
            raise ValueError(
                f"'then' goes on from the best trial, and by {len(self.objectives)} objectives none is: give one"
            )
        return self

    def second_stage(self, values: Mapping[str, Any]) -> "SearchSpace":
        """Return the space of the second stage, with the generators of a trial of this one as its bank."""
        assert self.then is not None and self.then.images is not None, "validated where there are two stages"
        bank = self.make_bank_config(values, images=self.then.images).model_dump(mode="json", exclude_defaults=True)
        return self.then.model_copy(update={"overrides": {**self.then.overrides, "bank": bank}})

    def make_bank_config(self, values: Mapping[str, Any], *, images: int, apart: int = 0) -> BankConfig:
        """Return the bank section for a frozen set of ``images`` by a trial's generators.

        They are those of the trial's bank, or its own where it has none; ``apart`` is added to their seed.
        """
        recipe = self.make_recipe(values)
        if recipe.bank is not None:
            return recipe.bank.model_copy(update={"images": images, "seed": recipe.bank.seed + apart})
        fixed = {key: value for key, value in {**self.overrides, **values}.items() if key != "seed"}
        return BankConfig(recipe=self.recipe, overrides=fixed, seed=recipe.seed + apart, images=images)

    def draw(self, draw_field: DrawField) -> Values:
        """Draw the values of a trial, in the order of the space: earlier values decide which later fields apply."""
        values: Values = {}
        for key, dimension in self.space.items():
            if dimension.applies(values):
                values[key] = draw_field(key, dimension)
        return values

    @property
    def holds_out(self) -> bool:
        """Tell whether the search holds out images that the recipe by itself would learn from."""
        return "data.holdout" in self.overrides

    def make_recipe(self, values: Mapping[str, Any], changes: Sequence[Mapping[str, Any]] = ()) -> Recipe:
        """Return the recipe of a trial: what `raykd train` makes of the same overrides, without controls.

        ``changes`` are changes of the values during the training, in the form of a recipe's field ``changes``.

        Raises:
            UsageError: if the values do not make a recipe.
        """
        during = {"changes": list(changes)} if changes else {}
        recipe = load_recipe(self.recipe, override_pairs({**self.overrides, **values, **during}))
        return recipe.model_copy(update={"controls": ()})

    def make_experiment(self, values: Mapping[str, Any], changes: Sequence[Mapping[str, Any]] = ()) -> Experiment:
        """Return the run of a trial, resolved; see ``make_recipe``.

        Raises:
            UsageError: if the values do not make a recipe, or it names a recipe that is not there.
        """
        return resolve(self.make_recipe(values, changes))

    @property
    def reports(self) -> int:
        """Return how many reports a trial makes, all its seeds together."""
        schedule = self.make_recipe({}).schedule
        return -(-schedule.steps // schedule.report_every) * self.seeds

    def generation_ends(self) -> list[int]:
        """Return the steps at which members of a population are compared, and the last step."""
        schedule = self.make_recipe({}).schedule
        steps = schedule.report_every * self.scheduler.interval
        return [*range(steps, schedule.steps, steps), schedule.steps]

    def check(self) -> None:
        """Try both ends of every number, a fraction between where one may be drawn, and every choice on the recipe.

        Raises:
            UsageError: for a field that the recipe does not have, or a value that it does not take, naming them.
        """
        self.make_experiment({})
        for key, dimension in self.space.items():
            for conditions in self._conditions(dimension):
                for value in dimension.probes:
                    try:
                        self.make_experiment({**conditions, key: value})
                    except UsageError as error:
                        raise UsageError(f"space {self.name!r}, {key} at {value!r}: {error}") from None
        if self.scheduler.name in ("asha", "median") and self.scheduler.grace >= self.reports:
            raise UsageError(
                f"space {self.name!r}: scheduler {self.scheduler.name!r} would end no trial, as each is given "
                f"{self.scheduler.grace} reports and makes {self.reports}: lower scheduler.grace or "
                "schedule.report_every, or set scheduler.name to none"
            )
        if self.scheduler.name == "pbt":
            ends = self.generation_ends()
            if len(ends) == 1:
                raise UsageError(
                    f"space {self.name!r}: scheduler 'pbt' would compare its trials once, at the end, step "
                    f"{ends[0]}: lower scheduler.interval ({self.scheduler.interval} reports) or schedule.report_every"
                )
            lowest = {key: dimension.samples[0] for key, dimension in self.space.items()}
            self.make_recipe({}, [{"at": ends[0], "values": lowest}])  # each field must be one that may change
        if self.then is None:
            return
        second = self.second_stage({})
        second.check()
        teacher, second_teacher = self.make_recipe({}).teacher, second.make_recipe({}).teacher
        if second_teacher is not None and second_teacher != teacher:
            raise UsageError(
                f"space {self.name!r}: the generators learn from the teacher {_describe(teacher)}, the students of "
                f"'then' from {_describe(second_teacher)}: they must be one; set it in then.overrides or take another "
                "recipe"
            )

    def _conditions(self, dimension: Dimension) -> Iterator[Values]:
        """Yield every combination of values under which a field is drawn, with the conditions of those in turn."""
        for values in product(*(as_list(allowed) for allowed in dimension.when.values())):
            own = dict(zip(dimension.when, values, strict=True))
            outer = [conditions for key in own for conditions in self._conditions(self.space[key])]
            yield {**{key: value for conditions in outer for key, value in conditions.items()}, **own}


def _describe(teacher: TeacherConfig | None) -> str:
    return json.dumps(teacher.model_dump(mode="json", exclude_defaults=True)) if teacher else "nobody"
