"""What may stand in a recipe's file, as a JSON Schema: also a part of a recipe, where it extends another."""

from typing import Any

from raykd.config.file_schema import file_schema
from raykd.config.overrides import NAMED
from raykd.recipe.recipe import Recipe

_EXTENDS = {"type": "string", "description": "a recipe to begin with: a packaged name, or a file beside this one"}
_NAME = {"type": "string", "description": "default: that of the file"}


def recipe_schema() -> dict[str, Any]:
    """Return the schema of a recipe's file.

    Sections may lack what they require, since the recipe that a file extends may have it; a whole recipe has its own
    sections.
    """
    schema = file_schema(Recipe)
    for section in schema["$defs"].values():
        section.pop("required", None)
    required = schema.pop("required")
    properties = _any_of(schema.pop("properties"))
    for section in NAMED:
        properties[section] = {"anyOf": [{"type": "string"}, properties[section]]}
    whole = {"if": {"not": {"required": ["extends"]}}, "then": {"required": required}}
    return {
        **schema,
        **whole,
        "properties": {"extends": _EXTENDS, "name": _NAME, **properties},
        "$defs": _any_of(schema["$defs"]),
    }


def _any_of(schema: Any) -> Any:
    """Return a schema in which a section without its ``name`` may be any of those that the name tells apart."""
    if isinstance(schema, list):
        return [_any_of(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        "anyOf" if key == "oneOf" else key: _any_of(value)
        for key, value in schema.items()
        if not (key == "discriminator" and isinstance(value, dict) and "mapping" in value)
    }
