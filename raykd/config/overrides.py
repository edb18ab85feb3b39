"""The fields of a recipe by their dotted names, and how ``KEY=VALUE`` sets them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raykd.config.base import Config
from raykd.config.field_names import field_hint
from raykd.config.yaml_file import parse_value
from raykd.errors import UsageError

NAMED = ("data", "method")
"""Sections of which a bare name is short for one with nothing else."""
Overrides = Mapping[str, Any] | Sequence[str]
"""Fields of a recipe: ``{"schedule.steps": 100}`` or ``["schedule.steps=100"]``."""


def override_pairs(overrides: Mapping[str, Any]) -> list[str]:
    """Write a mapping of dotted fields as the ``KEY=VALUE`` pairs that ``load_recipe`` takes."""
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


def as_pairs(overrides: Overrides) -> list[str]:
    """Return the ``KEY=VALUE`` pairs of fields in either form.

    Raises:
        UsageError: for a single text.
    """
    if isinstance(overrides, str):
        raise UsageError(f"overrides are a mapping or a list, as in [{overrides!r}]")
    return override_pairs(overrides) if isinstance(overrides, Mapping) else list(overrides)


def override(
    raw: dict[str, Any],
    pairs: Iterable[str],
    name: str,
    fields: set[str],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a recipe's content ``raw`` with dotted ``KEY=VALUE`` pairs applied.

    Args:
        raw: what the recipe file says.
        pairs: the overrides.
        name: the recipe's, for messages.
        fields: the dotted fields that exist; only these may be set.
        defaults: the whole content, of which a section that ``raw`` leaves out is what a field of it is set in.

    Raises:
        UsageError: for a pair without "=", an unknown field, or one that names the recipe or its method.
    """
    result: dict[str, Any] = json.loads(json.dumps(raw))  # a deep copy: nested sections are changed in place
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"expected KEY=VALUE, as in method.entropy_weight=3; got {pair!r}")
        if key == "method.name":
            raise UsageError("method.name cannot be overridden: pick another recipe")
        if key == "name":
            raise UsageError("name cannot be overridden: it is the recipe file's")
        *sections, leaf = _split_key(key, fields, name)
        parent, whole = result, dict(defaults or {})
        for section in sections:
            inner, default = parent.get(section), whole.get(section)
            whole = default if isinstance(default, dict) else {}
            parent[section] = inner if isinstance(inner, dict) else dict(whole) if inner is None else {}
            parent = parent[section]
        parent[leaf] = parse_value(text, key)
        result = expand_names(result)
    if _method_name(result) != _method_name(raw):
        raise UsageError("method.name cannot be overridden: pick another recipe")
    return result


def _split_key(key: str, fields: set[str], name: str) -> list[str]:
    """Split a dotted key into sections and field; in ``bank.overrides.method.tv_weight`` the field is another recipe's.

    Raises:
        UsageError: if there is no such field, naming the nearest.
    """
    section, marker, inner = key.partition(".overrides.")
    if marker and inner and f"{section}.overrides" in fields:
        return [*section.split("."), "overrides", inner]
    if key not in fields:
        raise UsageError(f"{key!r} is not a field of the {name!r} recipe{field_hint(key, sorted(fields))}")
    return key.split(".")


def _method_name(raw: Mapping[str, Any]) -> Any:
    method = raw.get("method")
    return method.get("name") if isinstance(method, dict) else None


def expand_names(raw: dict[str, Any]) -> dict[str, Any]:
    """Write ``data: NAME`` and ``method: NAME`` as sections, so that a variant or an override may change a part."""
    return {key: {"name": value} if key in NAMED and isinstance(value, str) else value for key, value in raw.items()}


def dotted_fields(section: Config, prefix: str = "") -> Iterable[str]:
    """Name the fields of a section and of those in it, as in ``method.temperature``."""
    for name in type(section).model_fields:
        yield prefix + name
        value = getattr(section, name)
        if isinstance(value, Config):
            yield from dotted_fields(value, f"{prefix}{name}.")


def float_fields(section: Config | None, prefix: str) -> Iterable[str]:
    """Name the float fields of a section and of those in it: weights, temperatures, rates, but no counts."""
    for name, info in type(section).model_fields.items() if section is not None else ():
        value = getattr(section, name)
        if isinstance(value, Config):
            yield from float_fields(value, f"{prefix}.{name}")
        elif info.annotation is float:
            yield f"{prefix}.{name}"
