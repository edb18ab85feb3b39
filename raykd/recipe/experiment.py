"""Experiment: a recipe with all that it names, found once. What runs, resumes, judges and reads goes by it.

A recipe names its teacher, its generators and its controls by recipes, which may be files that change and packaged
ones that the next release changes. ``resolve`` looks these names up, once, where a command starts. From there on the
experiment travels whole: to workers as plain data, into each run directory as a file, so that no reader of a run
depends on what the names mean by then.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import count
from typing import Any, NamedTuple

from raykd.config.base import Config
from raykd.config.overrides import override_pairs
from raykd.errors import UsageError
from raykd.methods import METHODS
from raykd.methods.base import BankMethod, PoolMethod
from raykd.recipe.published_teacher import complete, pin_network
from raykd.recipe.recipe import Recipe, load_recipe, recipe_from_dict
from raykd.recipe.sections import BankConfig, NetworkConfig, TeacherConfig

_MAX_DEPTH = 64
"""Runs that build on each other in a row; all that walks through an experiment calls itself so often."""
_MAX_RUNS = 2000
"""Runs of a record, each as often as another names it: what is named twice at each level doubles with each."""


class ImageSet(NamedTuple):
    """A frozen set of generated images: so many of the generators of a run."""

    run: str
    images: int

    @property
    def name(self) -> str:
        """Return its folder in the store; recipes that name the same generators share it."""
        return f"synthetic/{self.run}-{self.images}"


@dataclass(frozen=True)
class Experiment:
    """A run, resolved.

    Attributes:
        run_id: name of the recipe, 8 hex digits of all that decides the result, seed. It names the run directory.
        recipe: what is trained.
        teacher: the run that supplies the teacher; None where the recipe names weights, or none.
        bank: the run that supplies the generators; None where the recipe names a run by its id, or none.
        referees: the runs that supply the images that students are judged on, None for one that is named by its id.
        controls: the runs that are to stand beside this one, with its seed.
    """

    run_id: str
    recipe: Recipe
    teacher: "Experiment | None" = None
    bank: "Experiment | None" = None
    referees: tuple["Experiment | None", ...] = ()
    controls: tuple["Experiment", ...] = ()

    @property
    def content_hash(self) -> str:
        """Return the 8 hex digits that change with anything that changes the result, but not with the seed."""
        return self.run_id.rsplit("-", 2)[1]

    @property
    def sources(self) -> list["Experiment"]:
        """Return the runs that this one builds on directly, without those that are named by their ids."""
        return [run for run in (self.teacher, self.bank, *self.referees) if run is not None]

    @property
    def runs(self) -> list["Experiment"]:
        """Return all runs that training this experiment takes, in order: teacher's, bank's, its own, controls'."""
        before = [run for source in self.sources for run in source.runs]
        after = [run for control in self.controls for run in control.runs]
        return list({run.run_id: run for run in [*before, self, *after]}.values())

    @property
    def networks(self) -> list[NetworkConfig | TeacherConfig]:
        """Return the sections of all its runs that name a network."""
        sections = [section for run in self.runs for section in (run.recipe.teacher, run.recipe.student)]
        return [section for section in sections if section is not None]

    @property
    def bank_id(self) -> str | None:
        """Return the id of the run that supplies the generators."""
        return self._generators_id(self.recipe.bank, self.bank)

    @property
    def referee_ids(self) -> list[str]:
        """Return the ids of the runs that supply the images that students are judged on."""
        pairs = zip(self.recipe.referees, self.referees, strict=True)
        return [str(self._generators_id(config, run)) for config, run in pairs]

    @property
    def training_set(self) -> ImageSet | None:
        """Return the frozen set that stands for the bank, if the recipe asks for one."""
        return self._image_set(self.recipe.bank, self.bank)

    @property
    def referee_sets(self) -> list[ImageSet]:
        """Return the frozen sets that students are judged on."""
        pairs = zip(self.referee_ids, self.recipe.referees, strict=True)
        return [ImageSet(run, config.images) for run, config in pairs if config.images is not None]

    @property
    def image_sets(self) -> list[ImageSet]:
        """Return the frozen sets that are made, once, before this run is trained."""
        return [one for one in (self.training_set, *self.referee_sets) if one is not None]

    @property
    def built_upon(self) -> list[str]:
        """Return the ids of all other runs: those that this one builds on, those named by id, its controls."""
        sources = (self.recipe.bank, *self.recipe.referees)
        named = [one.run for one in sources if one is not None and one.run is not None]
        return [*named, *(run.run_id for run in self.runs if run.run_id != self.run_id)]

    def with_seed(self, seed: int) -> "Experiment":
        """Return this experiment with another seed; the runs that it builds on keep their own."""
        stem, _, _ = self.run_id.rpartition("-s")
        recipe = self.recipe.model_copy(update={"seed": seed})
        controls = tuple(control.with_seed(seed) for control in self.controls)
        return replace(self, run_id=f"{stem}-s{seed}", recipe=recipe, controls=controls)

    def without_controls(self) -> "Experiment":
        """Return the run alone, with what it builds on."""
        return replace(self, recipe=self.recipe.model_copy(update={"controls": ()}), controls=())

    def with_recipe(self, recipe: Recipe) -> "Experiment":
        """Return this run as one that is trained by another recipe: a part of its own, or a smaller trial of it."""
        return replace(self, recipe=recipe)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``experiment_from_dict`` reads back: every run once, by its id."""
        return {"run": self.run_id, "runs": {run.run_id: run._entry() for run in self.runs}}

    def _entry(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "teacher": self.teacher and self.teacher.run_id,
            "bank": self.bank and self.bank.run_id,
            "referees": [run and run.run_id for run in self.referees],
            "controls": [control.run_id for control in self.controls],
        }

    @staticmethod
    def _generators_id(config: BankConfig | None, resolved: "Experiment | None") -> str | None:
        if config is None:
            return None
        return config.run if resolved is None else resolved.run_id

    def _image_set(self, config: BankConfig | None, resolved: "Experiment | None") -> ImageSet | None:
        run = self._generators_id(config, resolved)
        return None if config is None or run is None or config.images is None else ImageSet(run, config.images)


def resolve(recipe: Recipe, trail: tuple[Recipe, ...] = ()) -> Experiment:
    """Find all that a recipe names: the recipes of its teacher, its generators and its controls, and theirs.

    Raises:
        UsageError: if a recipe is not there or has a slip, or recipes name each other in a circle or too deep
            (``trail`` holds the recipes on the way to this one).
    """
    if recipe in trail:
        names = " -> ".join(one.name for one in (*trail[trail.index(recipe) :], recipe))
        raise UsageError(f"recipes name each other in a circle: {names}")
    if len(trail) == _MAX_DEPTH:
        raise UsageError(f"recipes name each other more than {_MAX_DEPTH} deep: {trail[0].name!r} leads to too many")
    trail = (*trail, recipe)
    recipe, teacher = _complete(recipe), None
    if recipe.teacher is not None and recipe.teacher.recipe is not None:
        teacher = resolve(load_recipe(recipe.teacher.recipe, override_pairs(recipe.teacher.overrides)), trail)
    bank = _resolve_generators(recipe.bank, trail)
    referees = tuple(_resolve_generators(config, trail) for config in recipe.referees)
    controls = tuple(resolve(load_recipe(name, [f"seed={recipe.seed}"]), trail) for name in recipe.controls)
    run_id = f"{recipe.name}-{_content_hash(recipe, teacher, bank, referees)}-s{recipe.seed}"
    return Experiment(run_id, recipe, teacher, bank, referees, controls)


def _complete(recipe: Recipe) -> Recipe:
    """Return a recipe whose published networks are pinned, with what their publishers say of the data."""
    update: dict[str, Config] = {}
    if recipe.teacher is not None:
        update["data"], update["teacher"] = complete(recipe.data, recipe.teacher)
    if recipe.student is not None:
        update["student"] = pin_network(recipe.student)
    # As it is where nobody has published anything, so that what reads it reads what was given.
    is_same = all(getattr(recipe, name) is section for name, section in update.items())
    return recipe if is_same else recipe.model_copy(update=update)


def experiment_from_dict(data: Any) -> Experiment:
    """Rebuild an experiment from ``to_dict``: ids are those of then, and no name is looked up.

    Raises:
        UsageError: for anything else.
    """
    try:
        entries, first = dict(data["runs"]), data["run"]
        return _rebuild(first, entries, (), count(1))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"this is no experiment ({type(error).__name__}: {error})") from None


def _rebuild(run_id: str, entries: Mapping[str, Any], trail: tuple[str, ...], rebuilt: Iterator[int]) -> Experiment:
    if run_id in trail:
        raise UsageError(f"run {run_id} builds on itself")
    if len(trail) == _MAX_DEPTH or next(rebuilt) > _MAX_RUNS:
        raise UsageError(f"run {trail[0]} builds on more than {_MAX_RUNS} runs, or more than {_MAX_DEPTH} in a row")
    entry, trail = entries[run_id], (*trail, run_id)
    recipe = recipe_from_dict(entry["recipe"])
    if not (run_id.startswith(f"{recipe.name}-") and run_id.endswith(f"-s{recipe.seed}")) or "/" in run_id:
        raise UsageError(f"run {run_id} has the recipe of another, {recipe.name!r} with seed {recipe.seed}")

    def source(source_id: str | None) -> Experiment | None:
        return None if source_id is None else _rebuild(source_id, entries, trail, rebuilt)

    # Earlier versions wrote the one referee that there could be.
    referees = entry["referees"] if "referees" in entry else [entry["referee"]] * len(recipe.referees)
    if len(referees) != len(recipe.referees):
        raise UsageError(f"run {run_id} has {len(referees)} referees, its recipe {len(recipe.referees)}")
    controls = tuple(_rebuild(one, entries, trail, rebuilt) for one in entry["controls"])
    judges = tuple(source(one) for one in referees)
    return Experiment(run_id, recipe, source(entry["teacher"]), source(entry["bank"]), judges, controls)


def _resolve_generators(config: BankConfig | None, trail: tuple[Recipe, ...]) -> Experiment | None:
    if config is None or config.recipe is None:
        return None
    recipe = load_recipe(config.recipe, override_pairs({**config.overrides, "seed": config.seed}))
    method = METHODS[recipe.method.name]
    makes_images = method.makes_images or issubclass(method, PoolMethod)
    makes_set = config.images is not None and (makes_images or recipe.bank is not None)
    if not (makes_set or issubclass(method, BankMethod)):
        what = "makes no images: name" if config.images is not None else "trains no bank that stays: name"
        raise UsageError(
            f"recipe {config.recipe!r} is named for its generators, but its method {recipe.method.name!r} {what} one "
            "that trains generators, such as lsgdfd_digits_bank (`raykd list recipes`)"
        )
    if config.images is not None:
        check_pool_images(recipe, config.images)
    # Its controls are run beside who asks for that recipe itself.
    return resolve(recipe.model_copy(update={"controls": ()}), trail)


def images_of_pool(recipe: Recipe) -> int | None:
    """Return how many images a run of the recipe has in its pool in the end; None where it keeps none."""
    method, schedule = METHODS[recipe.method.name], recipe.schedule
    if not issubclass(method, PoolMethod):
        return None
    return method.images_made(recipe.method, schedule.steps, schedule.global_batch)


def check_pool_images(recipe: Recipe, images: int) -> None:
    """Refuse to ask for more images of a run of the recipe than its pool will have, if that is what it makes.

    Raises:
        UsageError: with both numbers.
    """
    made = images_of_pool(recipe)
    if made is not None and images > made:
        raise UsageError(
            f"a run of {recipe.name} makes {made:,} images in its {recipe.schedule.steps:,} steps, and {images:,} are "
            "asked for: ask for so many or fewer, or let it make more"
        )


def _content_hash(
    recipe: Recipe, teacher: Experiment | None, bank: Experiment | None, referees: tuple[Experiment | None, ...]
) -> str:
    """Return 8 hex digits of all that decides the result: a source that is trained in another way makes another run."""
    content = _hashed_fields(recipe, recipe.model_dump(mode="json"), "")
    for unrelated in ("name", "seed", "controls", "published"):
        content.pop(unrelated, None)
    content["data"].pop("class_names", None)
    if teacher is not None:
        content["teacher"] = teacher.run_id
    if recipe.bank is not None and bank is not None:
        content["bank"] = bank.run_id if recipe.bank.images is None else [bank.run_id, recipe.bank.images]
    judges = [run and [run.run_id, config.images] for config, run in zip(recipe.referees, referees, strict=True)]
    if isinstance(recipe.referee, tuple):
        content["referee"] = [judge or own for judge, own in zip(judges, content["referee"], strict=True)]
    elif any(judges):
        content["referee"] = judges[0]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def _hashed_fields(section: Config, dumped: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the fields of a section that the run id is made of: the first recipes', and others that are no defaults.

    So a field that is added later changes no id of a recipe that leaves it alone.
    """
    hashed: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        value, key = getattr(section, name), prefix + name
        if key in _always_hashed() or info.is_required() or value != info.get_default(call_default_factory=True):
            inner = isinstance(value, Config)
            hashed[name] = _hashed_fields(value, dumped[name], hashed_prefix(key, value)) if inner else dumped[name]
    return hashed


def hashed_prefix(key: str, section: Config) -> str:
    """Return how fields of a section begin in the list: ``method[dafl].`` where its name tells it from others."""
    kind = getattr(section, "name", None) if "name" in type(section).model_fields and key != "data" else None
    return f"{key}[{kind}]." if kind else f"{key}."


@cache
def _always_hashed() -> frozenset[str]:
    """Return the fields of the first recipes, whose values are in every id. The list is closed: nothing joins it."""
    return frozenset(json.loads((resources.files("raykd.recipe") / "always_hashed.json").read_text("utf-8")))
