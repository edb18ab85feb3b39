"""Plan a search: settle objectives and the images they are measured on, name its folder. Imports no Ray, no Optuna.

<store>/searches/<space>-<8 hex of what is searched>/   study.db search.json best.yaml (or best-N.yaml) figures/
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import RaykdError, UsageError
from raykd.recipe.experiment import Experiment, images_of_pool
from raykd.recipe.recipe import Recipe
from raykd.search.objectives import default_objective, metric_name
from raykd.search.space import SearchSpace, Values

_HOLDOUT = 0.1  # fraction of the training images, where an objective is measured on them
_REFEREE_IMAGES = 500  # of each seed, or all of a pool that has fewer
_REFEREE_SEEDS = (1, 2)  # added to the recipe's: one run alone may have failed


@dataclass(frozen=True)
class Search:
    """A planned search, or one stage of it.

    Attributes:
        space: what is searched; its overrides say on which images the objectives are measured.
        objectives: names of ``raykd.search.objectives``.
        store: the store of its runs on this machine, absolute.
        digest: 8 hex digits of all that makes its trials comparable: searches of one digest share a study.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    store: Path
    digest: str

    @property
    def folder(self) -> Path:
        """Return the folder of the study and the report."""
        return self.store / "searches" / f"{self.space.name}-{self.digest}"

    def next_stage(self, values: Values) -> "Search | None":
        """Plan the stage that follows, on generators of a trial with these values; None if this is the last one.

        Raises:
            UsageError: if its runs do not measure an objective.
        """
        return None if self.space.then is None else plan_search(self.space.second_stage(values), self.store)

    def stages(self) -> list["Search"]:
        """Return all stages, the later ones on generators of the recipe as it stands: what can be checked beforehand.

        Raises:
            UsageError: if runs of a later stage do not measure an objective.
        """
        following = self.next_stage({})
        return [self] if following is None else [self, *following.stages()]


class SearchStopped(RaykdError):
    """The search was asked to stop; the trials at work have saved first."""

    exit_code = 130

    def __init__(self, finished: int, trials: int) -> None:
        """Say how many of the trials have ended."""
        super().__init__(f"stopped with {finished} of {trials} trials finished; the same command continues")


def plan_search(space: SearchSpace, store: Path) -> Search:
    """Settle the objectives and the images that they are measured on, the same for all trials.

    Agreement on images of a student's own generator says nothing where trials differ in their generators: one that
    makes few and simple images is agreed on best. There a referee judges: images by the generators of the recipe as it
    stands, of two other seeds.

    Raises:
        UsageError: if runs of the recipe, or of the second stage's, do not measure an objective.
    """
    recipe = space.make_recipe({})
    objectives = space.objectives or (default_objective(recipe),)
    metrics = [metric_name(objective, recipe) for objective in objectives]
    if space.scheduler.name != "none" and metrics[0] is None:
        raise UsageError(
            f"scheduler {space.scheduler.name!r} compares trials on their way, and objective {objectives[0]!r} is told "
            "at their end: take agreement or accuracy, or scheduler.name none"
        )
    if "agreement" in objectives and recipe.referee is None and _generators_vary(space, recipe):
        made = images_of_pool(recipe) if recipe.bank is None else None
        images = _REFEREE_IMAGES if made is None else min(made, _REFEREE_IMAGES)
        banks = [space.make_bank_config({}, images=images, apart=apart) for apart in _REFEREE_SEEDS]
        referee = [bank.model_dump(exclude_defaults=True) for bank in banks]
        space = space.model_copy(update={"overrides": {**space.overrides, "referee": referee}})
    elif any(metric and metric.startswith("holdout/") for metric in metrics) and not recipe.data.holdout:
        space = space.model_copy(update={"overrides": {**space.overrides, "data.holdout": _HOLDOUT}})
    planned = Search(space, objectives, store.absolute(), _digest(space, objectives))
    try:
        planned.stages()
    except UsageError as error:
        raise UsageError(f"then: {error}") from None
    return planned


def _digest(space: SearchSpace, objectives: tuple[str, ...]) -> str:
    """Return 8 hex digits of all that makes trials comparable.

    How many there are, and who proposes or ends them, may change from one start of a search to the next.
    """
    content = space.model_dump(
        mode="json", exclude={"name", "trials", "keep", "points", "earlier", "sampler", "scheduler", "images", "then"}
    )
    if space.scheduler.name == "pbt":  # its trials are parts of trainings, which no other sampler may learn from
        content["population"] = [space.trials, space.scheduler.interval]
    if space.seeds == 1:
        del content["seeds"]
    content["objectives"] = objectives
    content["recipe"] = space.make_experiment({}).content_hash
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def _generators_vary(space: SearchSpace, recipe: Recipe) -> bool:
    """Tell whether generators differ from trial to trial, a trial's own or those of its bank."""
    if recipe.bank is not None:
        return any(key == "bank" or key.startswith("bank.") for key in space.space)
    return metric_name("agreement", recipe) == "blind/agreement"


def shared_sources(space: SearchSpace) -> list[Experiment]:
    """Return the runs that several trials build on, teachers and banks: those of the recipe and of each choice.

    A run that a number changes, such as a bank by a weight of its generators, is one trial's own and left out.
    """
    choices: list[Values] = [{}]
    for key, dimension in space.space.items():
        if dimension.choice is not None and not dimension.when:
            choices += [{key: value} for value in dimension.choice]
    numbers = {key: dimension.samples[0] for key, dimension in space.space.items() if dimension.choice is None}
    shared: dict[str, Experiment] = {}
    for values in choices:
        runs = _sources(space, values)
        for key, number in numbers.items():
            with_number = _sources(space, {**values, key: number})
            runs = {run_id: run for run_id, run in runs.items() if run_id in with_number}
        shared |= runs
    return list(shared.values())


def _sources(space: SearchSpace, values: Values) -> dict[str, Experiment]:
    return {run.run_id: run for run in space.make_experiment(values).runs[:-1]}
