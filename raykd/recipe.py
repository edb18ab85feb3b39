"""Recipe: what is trained, with which settings. Never a path of this machine, a host or a number of GPUs."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from raykd.config import Optimizer, Section
from raykd.errors import UsageError, did_you_mean, unknown
from raykd.methods import METHODS, MethodConfig
from raykd.recipe_sections import (
    BankConfig,
    CalibrationConfig,
    DataConfig,
    NetworkConfig,
    ScheduleConfig,
    TeacherConfig,
)
from raykd.yaml_file import explain, load_yaml, parse_value


class Recipe(Section):
    """One run, complete: the same recipe and seed give the same run id on any machine."""

    name: str
    data: DataConfig
    student: NetworkConfig | None = None
    teacher: TeacherConfig | None = None
    bank: BankConfig | None = None
    calibration: CalibrationConfig | None = None
    method: MethodConfig
    student_optim: Optimizer | None = None
    schedule: ScheduleConfig
    controls: tuple[str, ...] = Field(default=(), description="recipes run beside this one")
    published: dict[str, float] = Field(default={}, description="the paper's figures, top-1 in per cent")
    seed: int = Field(default=0, ge=0)

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
            raise ValueError("a recipe's name is up to 100 letters, digits, '_' and '-' (it names folders)")
        return name

    @field_validator("data", mode="before")
    @classmethod
    def _short_data(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _roles_filled(self) -> "Recipe":
        method, roles = self.method.name, METHODS[self.method.name].roles
        filled = {"student": self.student, "student_optim": self.student_optim, "bank": self.bank}
        wanted = {"student": "student", "student_optim": "student", "bank": "bank"}
        for section, role in wanted.items():
            if (filled[section] is None) == (role in roles):
                verb = "needs a" if role in roles else "takes no"
                raise ValueError(f"method {method!r} {verb} {section!r} section")
        if ("ood" in METHODS[method].streams) == (self.data.ood is None):
            verb = "needs other images: give" if self.data.ood is None else "takes no other images: leave out"
            raise ValueError(f"method {method!r} {verb} 'data.ood'")
        if self.data.holdout and not METHODS[method].streams:
            raise ValueError(f"method {method!r} learns from no images of which 'data.holdout' could be a part")
        if self.calibration is not None and not METHODS[method].matches_statistics:
            raise ValueError(f"method {method!r} takes no 'calibration' section: it matches no statistics")
        return self

    @property
    def run_id(self) -> str:
        """Return name, 8 hex digits of the canonical content, seed."""
        return f"{self.name}-{self.content_hash}-s{self.seed}"

    @property
    def content_hash(self) -> str:
        """Return 8 hex digits that change with anything that changes the result, but not with the seed."""
        content = self.model_dump(mode="json", exclude={"name", "seed", "controls", "published"})
        for newer in ("bank", "calibration"):  # absent from recipes of before these sections existed
            if content[newer] is None:
                del content[newer]
        for newer in ("train", "ood", "ood_images", "ood_index", "ood_balanced", "buffer", "holdout"):
            if not content["data"][newer]:
                del content["data"][newer]
        if content["teacher"] is not None:
            del content["teacher"]["overrides"]  # they are in the teacher's run id
        bank = bank_run(self)
        if bank is not None:
            content["bank"] = bank.run_id
        teacher = teacher_run(self)
        if teacher is not None:  # a teacher trained in another way makes this another run
            content["teacher"] = teacher.run_id
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    folder = resources.files("raykd") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(source: str, overrides: Iterable[str] = ()) -> Recipe:
    """Load a packaged recipe by name, or a file by path, and apply ``KEY=VALUE`` overrides.

    The published figures are of its data and networks; where others are asked for they are left out.

    Raises:
        UsageError: for an unknown name, key or value, naming the nearest match.
    """
    path = _find(source)
    raw = _extended(path)
    fields = set(_dotted_fields(_validated(raw, path.name, set())))
    pairs = list(overrides)
    recipe = _validated(override(raw, pairs, path.stem, fields), source, fields)
    changed = {pair.partition("=")[0].partition(".")[0].strip() for pair in pairs}
    if changed & {"data", "student", "teacher", "bank"} and "published" not in changed:
        recipe = recipe.model_copy(update={"published": {}})
    return recipe


def teacher_run(recipe: Recipe) -> Recipe | None:
    """Return the recipe whose run supplies the teacher, if that is where it comes from."""
    return teacher_source(recipe.teacher) if recipe.teacher is not None else None


def teacher_source(teacher: TeacherConfig) -> Recipe | None:
    """Return the recipe that a teacher section names, with its overrides, or None where it names none."""
    return None if teacher.recipe is None else load_recipe(teacher.recipe, override_pairs(teacher.overrides))


def override_pairs(overrides: Mapping[str, Any]) -> list[str]:
    """Write a mapping of dotted fields as the ``KEY=VALUE`` pairs that ``load_recipe`` takes."""
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


def bank_run(recipe: Recipe) -> Recipe | None:
    """Return the recipe whose run supplies the bank, if that is where it comes from."""
    if recipe.bank is None or recipe.bank.recipe is None:
        return None
    return load_recipe(recipe.bank.recipe, [f"seed={recipe.bank.seed}"])


def control_runs(recipe: Recipe) -> list[Recipe]:
    """Return the recipes that run beside this one, with its seed."""
    return [load_recipe(name, [f"seed={recipe.seed}"]) for name in recipe.controls]


def entailed_runs(recipe: Recipe, trail: tuple[str, ...] = ()) -> list[Recipe]:
    """Return all runs that training this recipe means, in their order: teacher's, bank's, its own, controls'.

    Raises:
        UsageError: if recipes name each other in a circle (``trail`` holds those on the way).
    """
    if recipe.name in trail:
        raise UsageError(f"recipes name each other in a circle: {' -> '.join([*trail, recipe.name])}")
    trail = (*trail, recipe.name)
    sources = [run for run in (teacher_run(recipe), bank_run(recipe)) if run is not None]
    before = [run for source in sources for run in entailed_runs(source, trail)]
    after = [run for control in control_runs(recipe) for run in entailed_runs(control, trail)]
    return list({run.run_id: run for run in [*before, recipe, *after]}.values())


def recipe_from_dict(data: Mapping[str, Any]) -> Recipe:
    """Rebuild a recipe from ``model_dump(mode="json")``, as workers and run directories hold it."""
    return _validated(dict(data), str(data.get("name", "recipe")), set())


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that ``load_recipe`` reads back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def override(raw: dict[str, Any], pairs: Iterable[str], name: str, fields: set[str]) -> dict[str, Any]:
    """Return ``raw`` with dotted ``KEY=VALUE`` pairs applied; only existing fields may be set."""
    result: dict[str, Any] = json.loads(json.dumps(raw))
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"expected KEY=VALUE, as in method.entropy_weight=3; got {pair!r}")
        if key == "method.name":
            raise UsageError("method.name cannot be overridden: pick another recipe")
        if key == "name":
            raise UsageError("name cannot be overridden: it is the recipe file's")
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise UsageError(f"{key!r} is not a field of the {name!r} recipe{hint}")
        *sections, leaf = key.split(".")
        place = result
        for section in sections:
            inner = place.get(section)
            place[section] = inner if isinstance(inner, dict) else {}
            place = place[section]
        place[leaf] = parse_value(text)
        result = _spelled_out(result)
    if _method_name(result) != _method_name(raw):
        raise UsageError("method.name cannot be overridden: pick another recipe")
    return result


def _method_name(raw: Mapping[str, Any]) -> Any:
    method = raw.get("method")
    return method.get("name") if isinstance(method, dict) else None


def _find(source: str) -> Path:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or "/" in source:
        if not path.is_file():
            raise UsageError(f"no recipe file {source!r}; `raykd list recipes` shows the packaged ones")
        return path
    if source not in recipe_names():
        raise unknown("recipe", source, recipe_names())
    return Path(str(resources.files("raykd") / "recipes" / f"{source}.yaml"))


def _extended(path: Path) -> dict[str, Any]:
    """Read a recipe and lay it over the one it extends, section by section (a changed `name` replaces)."""
    own = _spelled_out(load_yaml(path))
    base_name = own.pop("extends", None)
    if base_name is None:
        return {"name": path.stem, **own}
    beside = path.parent / f"{base_name}.yaml"
    base = _spelled_out(load_yaml(beside if beside.is_file() else _find(str(base_name))))
    if "extends" in base:
        raise UsageError(f"{path}: extends {base_name!r}, which itself extends; only one level is allowed")
    return {**_merged(base, own), "name": own.get("name", path.stem)}


def _spelled_out(raw: dict[str, Any]) -> dict[str, Any]:
    """Write ``data: NAME`` as a section, so that a variant or an override may change a part of it."""
    return {**raw, "data": {"name": raw["data"]}} if isinstance(raw.get("data"), str) else raw


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            renamed = "name" in value and value["name"] != old.get("name")
            switched = key in ("teacher", "student") and not set(value) & set(old)
            result[key] = value if renamed or switched else _merged(old, value)
        else:
            result[key] = value
    return result


def _validated(raw: dict[str, Any], source: str, fields: set[str]) -> Recipe:
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        known = fields or set(_possible_fields(Recipe, raw))
        raise explain(error, source, known) from None


def _possible_fields(section: type[Section], raw: Any, prefix: str = "") -> Iterable[str]:
    """Name the fields that a broken recipe could have set, to suggest from."""
    for field, info in section.model_fields.items():
        yield prefix + field
        value = raw.get(field) if isinstance(raw, dict) else None
        for inner in _sections_in(info.annotation):
            tag = inner.model_fields.get("name")
            tags = get_args(tag.annotation) if tag else ()
            if not tags or (isinstance(value, dict) and value.get("name") in tags):
                yield from _possible_fields(inner, value, f"{prefix}{field}.")


def _sections_in(annotation: Any) -> Iterable[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _dotted_fields(section: Section, prefix: str = "") -> Iterable[str]:
    for name in type(section).model_fields:
        yield prefix + name
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _dotted_fields(value, f"{prefix}{name}.")
