"""The fields of a recipe by their dotted names, and how ``KEY=VALUE`` sets them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from raykd.config.base import Config
from raykd.config.yaml_file import parse_value
from raykd.errors import UsageError, did_you_mean


def override_pairs(overrides: Mapping[str, Any]) -> list[str]:
    """Write a mapping of dotted fields as the ``KEY=VALUE`` pairs that ``load_recipe`` takes."""
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


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
        *sections, leaf = _places(key, fields, name)
        place = result
        for section in sections:
            inner = place.get(section)
            place[section] = inner if isinstance(inner, dict) else {}
            place = place[section]
        place[leaf] = parse_value(text)
        result = spelled_out(result)
    if _method_name(result) != _method_name(raw):
        raise UsageError("method.name cannot be overridden: pick another recipe")
    return result


def _places(key: str, fields: set[str], name: str) -> list[str]:
    """Return the sections around a field, and the field; ``bank.overrides.method.tv_weight`` is one of another recipe.

    Raises:
        UsageError: if there is no such field, naming the nearest.
    """
    section, marker, inner = key.partition(".overrides.")
    if marker and inner and f"{section}.overrides" in fields:
        return [*section.split("."), "overrides", inner]
    if key not in fields:
        raise UsageError(f"{key!r} is not a field of the {name!r} recipe{did_you_mean(key, fields)}")
    return key.split(".")


def _method_name(raw: Mapping[str, Any]) -> Any:
    method = raw.get("method")
    return method.get("name") if isinstance(method, dict) else None


def spelled_out(raw: dict[str, Any]) -> dict[str, Any]:
    """Write ``data: NAME`` as a section, so that a variant or an override may change a part of it."""
    return {**raw, "data": {"name": raw["data"]}} if isinstance(raw.get("data"), str) else raw


def dotted_fields(section: Config, prefix: str = "") -> Iterable[str]:
    """Name the fields of a section and of those in it, as in ``method.temperature``."""
    for name in type(section).model_fields:
        yield prefix + name
        value = getattr(section, name)
        if isinstance(value, Config):
            yield from dotted_fields(value, f"{prefix}{name}.")


def numbers_of(section: Config | None, prefix: str) -> Iterable[str]:
    """Name the numbers of a section, and of those in it, that are no counts: weights, temperatures, rates."""
    for name, info in type(section).model_fields.items() if section is not None else ():
        value = getattr(section, name)
        if isinstance(value, Config):
            yield from numbers_of(value, f"{prefix}.{name}")
        elif info.annotation is float:
            yield f"{prefix}.{name}"
