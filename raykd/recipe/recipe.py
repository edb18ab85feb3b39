"""Recipe: what is trained, with which settings. Never a path of this machine, a host or a number of GPUs."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from raykd.config.base import Config
from raykd.config.catalog import RECIPES
from raykd.config.optim import Optimizer
from raykd.config.overrides import dotted_fields, expand_names, float_fields, override
from raykd.config.yaml_file import dump_yaml, explain, load_yaml
from raykd.distributed.world import mix
from raykd.errors import UsageError, did_you_mean
from raykd.methods import METHODS, MethodConfig
from raykd.models.published import TRANSFORMERS
from raykd.recipe.sections import (
    BankConfig,
    CalibrationConfig,
    Change,
    DataConfig,
    NetworkConfig,
    ScheduleConfig,
    SentinelConfig,
    TeacherConfig,
)

Referee = Annotated[
    Annotated[BankConfig, Tag("one")] | Annotated[tuple[BankConfig, ...], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list | tuple) else "one"),
]

_REWOUND = 0x4EB0  # keeps the noise after a rewind apart from that of other seeds


_PUBLISHED_FOR = ("data", "student", "teacher", "bank")
"""Sections that published figures are of; where one is another they are figures of something else."""
_ROLE_OF_SECTION = {"student": "student", "student_optim": "student", "bank": "bank"}
_WHOLE = (
    "{data: digits, teacher: {recipe: supervised_digits_lenet5}, student: {model: lenet5_half}, method: {name: kd}, "
    "student_optim: {name: adam, lr: 1e-3}, schedule: {steps: 500, report_every: 100, global_batch: 128}}"
)


class Recipe(Config):
    """One run, complete: the same recipe and seed give the same run id on any machine."""

    name: str = Field(description="that of its file")
    data: DataConfig = Field(description="which set, and how its images reach the networks")
    student: NetworkConfig | None = Field(default=None, description="the network that is trained")
    teacher: TeacherConfig | None = Field(default=None, description="the network to learn from")
    bank: BankConfig | None = Field(default=None, description="generators to learn from")
    referee: Referee | None = Field(
        default=None,
        description="generators, one or a list, whose images, learnt from by no student, students are judged on",
    )
    calibration: CalibrationConfig | None = Field(default=None, description="moments by class of the teacher")
    method: MethodConfig = Field(description="the algorithm, `raykd show method NAME`")
    student_optim: Optimizer | None = Field(default=None, description="of the student")
    schedule: ScheduleConfig = Field(description="the budget")
    sentinel: SentinelConfig = Field(default=SentinelConfig(), description="what a run does where it fails")
    changes: tuple[Change, ...] = Field(default=(), description="numbers that become others during the training")
    controls: tuple[str, ...] = Field(default=(), description="recipes run beside this one")
    published: dict[str, float] = Field(default={}, description="the paper's figures, top-1 in per cent")
    seed: int = Field(default=0, ge=0, description="of all random numbers")

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
            raise ValueError("a recipe's name is up to 100 letters, digits, '_' and '-' (it names folders)")
        return name

    @field_validator("data", "method", mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _sections_there(cls, raw: Any) -> Any:
        # Where a section has a wrong name, that is what is to be said.
        if isinstance(raw, Mapping) and raw.keys() <= cls.model_fields.keys() and (missing := _missing_sections(raw)):
            raise ValueError(f"{'; '.join(missing)}; a whole recipe is, for example, {_WHOLE}")
        return raw

    @model_validator(mode="after")
    def _roles_filled(self) -> "Recipe":
        method, roles = self.method.name, METHODS[self.method.name].roles
        frozen = self.bank is not None and self.bank.images is not None
        filled = {"student": self.student, "student_optim": self.student_optim, "bank": None if frozen else self.bank}
        for section, role in _ROLE_OF_SECTION.items():
            if (filled[section] is None) == (role in roles):
                verb = "needs a" if role in roles else "takes no"
                raise ValueError(f"method {method!r} {verb} {section!r} section")
        if frozen and "train" not in METHODS[method].streams:
            raise ValueError(f"method {method!r} trains on no set of images: leave out 'bank.images'")
        if frozen and self.data.train is not None:
            raise ValueError("the set to train on is given twice: leave out 'data.train' or 'bank.images'")
        if self.referee == ():
            raise ValueError("'referee' is an empty list: name generators, or leave it out")
        if any(generators.images is None for generators in self.referees):
            raise ValueError("a referee is a set of images: give 'referee.images', such as 1000")
        if self.referees and not {"student", "teacher"} <= set(roles):
            raise ValueError(f"method {method!r} has no student and teacher whose agreement 'referee' could measure")
        if ("ood" in METHODS[method].streams) == (self.data.ood is None):
            verb = "needs other images: give" if self.data.ood is None else "takes no other images: leave out"
            raise ValueError(f"method {method!r} {verb} 'data.ood'")
        if self.data.holdout and not METHODS[method].streams:
            raise ValueError(f"method {method!r} learns from no images of which 'data.holdout' could be a part")
        if self.calibration is not None and "statistics" not in METHODS[method].config.model_fields:
            raise ValueError(f"method {method!r} takes no 'calibration' section: it matches no statistics by class")
        return self

    @model_validator(mode="after")
    def _changes_hold(self) -> "Recipe":
        report_every, previous = self.schedule.report_every, 0
        for change in self.changes:
            if "student" not in METHODS[self.method.name].roles:
                raise ValueError(f"method {self.method.name!r} takes no 'changes': it trains no student")
            if change.at <= previous or change.at % report_every or change.at >= self.schedule.steps:
                raise ValueError(
                    f"a change at step {change.at}: they stand in their order, between steps 0 and "
                    f"{self.schedule.steps}, at multiples of schedule.report_every, {report_every}"
                )
            previous = change.at
            numbers = {name for part in ("method", "student_optim") for name in float_fields(getattr(self, part), part)}
            for key in change.values:
                if key not in numbers:
                    raise ValueError(f"{key!r} cannot change during a training{did_you_mean(key, numbers)}")
        self.segments()
        return self

    @property
    def referees(self) -> tuple[BankConfig, ...]:
        """Return the generators of ``referee``, none or more."""
        if self.referee is None:
            return ()
        return (self.referee,) if isinstance(self.referee, BankConfig) else self.referee

    def segments(self) -> list[tuple["Recipe", int | None]]:
        """Return the recipes between the changes, in order, each with the step that it ends at (None: the last).

        Raises:
            ValueError: if a change makes no recipe.
        """
        if not self.changes:
            return [(self, None)]
        segments, ends = [], [*(change.at for change in self.changes), None]
        segment = self.model_copy(update={"changes": ()})
        for values, end in zip([{}, *(change.values for change in self.changes)], ends, strict=True):
            segment = segment._with_numbers(values)
            segments.append((segment, end))
        return segments

    def rewound(self, times: int) -> "Recipe":
        """Return the recipe that a run goes on by after so many rewinds: rates are halved by each, noise is another."""
        if not times:
            return self
        numbers = {name for part in ("method", "student_optim") for name in float_fields(getattr(self, part), part)}
        dumped = self.model_dump(mode="json")
        rates = {key: _at(dumped, key) / 2**times for key in numbers if key.endswith(".lr")}
        return self._with_numbers(rates).model_copy(update={"seed": mix(self.seed, _REWOUND, times)})

    def _with_numbers(self, values: Mapping[str, float]) -> "Recipe":
        """Return the recipe with dotted numbers replaced.

        Raises:
            ValueError: if they make no recipe.
        """
        content = self.model_dump(mode="json")
        for key, value in values.items():
            section, _, leaf = key.rpartition(".")
            _at(content, section)[leaf] = value
        return type(self).model_validate(content)


def _at(content: Any, key: str) -> Any:
    """Return what stands at a dotted key of a recipe's content."""
    for part in key.split("."):
        content = content[part]
    return content


def _missing_sections(raw: Mapping[str, Any]) -> list[str]:
    """Say of every section that is required, or that the method needs, and is not there."""
    lines = [f"{section!r} is required" for section in ("data", "method", "schedule") if raw.get(section) is None]
    method = raw.get("method")
    name = method.get("name") if isinstance(method, Mapping) else getattr(method, "name", None)
    roles = METHODS[name].roles if isinstance(name, str) and name in METHODS else ()
    sections = [section for section, role in _ROLE_OF_SECTION.items() if role in roles]
    lines += [f"method {name!r} needs a {section!r} section" for section in sections if raw.get(section) is None]
    # A teacher may be given otherwise, so that it alone is never missed.
    if lines and "teacher" in roles and raw.get("teacher") is None:
        lines.append(f"method {name!r} needs a 'teacher' section")
    return lines


def load_recipe(source: str, overrides: Iterable[str] = ()) -> Recipe:
    """Load a packaged recipe by name, or a file by path, and apply ``KEY=VALUE`` overrides.

    The published figures are of its data and networks; where others are asked for they are left out.

    Raises:
        UsageError: for an unknown name, key or value, naming the nearest match.
    """
    path = RECIPES.find(source)
    raw = _read_with_base(path)
    # Checked before the overrides too: a mistake in the file is reported as such, and defaults are fields to override.
    plain = _validate(raw, path.name)
    changed = override(raw, overrides, path.stem, set(dotted_fields(plain)), plain.model_dump(mode="json"))
    if _is_of_others(changed, raw) and changed.get("published") == raw.get("published"):
        changed["published"] = {}
    return _validate(changed, source)


def selected_by(recipe: Recipe) -> str:
    """Return which student counts: of a run that opens data the last, else the blind-selected."""
    return "last" if METHODS[recipe.method.name].streams else "blind"


def without_test(recipe: Recipe) -> Recipe:
    """Return the recipe without its test split: a run of it evaluates no student."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": False})})


def recipe_from_dict(data: Mapping[str, Any]) -> Recipe:
    """Rebuild a recipe from ``model_dump(mode="json")``, as workers and run directories hold it."""
    return _validate(dict(data), str(data.get("name", "recipe")))


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that ``load_recipe`` reads back to an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _read_with_base(path: Path) -> dict[str, Any]:
    """Read a recipe and lay it over the one it extends, that over the one it extends itself, and so on.

    Sections are laid over each other field by field; a changed ``name`` of one replaces it.

    Raises:
        UsageError: if recipes extend each other in a circle.
    """
    layers, files = [read_sections(path)], [path]
    while (base_name := layers[-1].pop("extends", None)) is not None:
        base = _find_base(files[-1], str(base_name))
        known = [file.resolve() for file in files]
        files.append(base)
        if base.resolve() in known:
            circle = " -> ".join(file.stem for file in files[known.index(base.resolve()) :])
            raise UsageError(
                f"{path}: recipes extend each other in a circle: {circle}; let one of them extend no other"
            )
        layers.append(read_sections(base))
    name, merged = layers[0].get("name", path.stem), layers.pop()
    while layers:
        own, base_content = layers.pop(), merged
        merged = _merge(base_content, own)
        if _is_of_others(merged, base_content):
            merged["published"] = own.get("published", {})
    return {**merged, "name": name}


def _find_base(path: Path, name: str) -> Path:
    """Find what a recipe extends: one beside it, or a packaged one, which a file of that very name may extend."""
    beside = path.parent / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    is_itself = os.path.isfile(beside) and beside.resolve() == path.resolve() and name in RECIPES.files()
    return beside if os.path.isfile(beside) and not is_itself else RECIPES.find(name)


def _is_of_others(changed: Mapping[str, Any], raw: Mapping[str, Any]) -> bool:
    """Tell whether data, a network or the method is another, so that figures of the one are none of the other."""
    methods = [section["method"].get("name") for section in (changed, raw) if isinstance(section.get("method"), dict)]
    return len(set(methods)) > 1 or any(changed.get(key) != raw.get(key) for key in _PUBLISHED_FOR)


def read_sections(path: Path) -> dict[str, Any]:
    """Read a YAML file of a recipe's sections; files of tensors beside it are named as they are found from here.

    Raises:
        UsageError: for anything but a mapping of plain data.
    """
    raw, folder, here = expand_names(load_yaml(path)), path.parent.resolve(), Path.cwd()
    for role, field in (("teacher", "weights"), ("student", "weights"), ("method", "embeddings")):
        section = raw.get(role)
        name = section.get(field) if isinstance(section, dict) else None
        # A whole path, or a name from the folder of the file, stays as it is written: it is part of the run's id.
        if not isinstance(name, str) or os.path.isabs(name) or folder == here:
            continue
        if os.path.isfile(file := folder / name):
            raw[role] = {**raw[role], field: str(_from_here(file))}
    teacher = raw.get("teacher")
    model = teacher.get("model") if isinstance(teacher, dict) else None
    if isinstance(model, str) and model.startswith(TRANSFORMERS) and folder != here:
        beside = folder / model.removeprefix(TRANSFORMERS)
        if beside.is_dir():
            raw["teacher"] = {**raw["teacher"], "model": f"{TRANSFORMERS}{_from_here(beside)}"}
    return raw


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            renamed = "name" in value and value["name"] != old.get("name")
            switched = key in ("teacher", "student") and not set(value) & set(old)
            result[key] = value if renamed or switched else _merge(old, value)
        else:
            result[key] = value
    return result


def _validate(raw: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise explain(error, source, Recipe, raw) from None
