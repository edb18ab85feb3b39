"""In which dotted fields the contents of files differ: of recipes beside each other, or of other files of one kind."""

from collections.abc import Iterator, Mapping
from typing import Any

from raykd.config.yaml_file import dump_flow


def differences(*contents: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the fields in which contents differ, each with what stands there in every one of them.

    Args:
        contents: plain data, such as a recipe's ``model_dump(mode="json")``.

    Returns:
        By dotted key a text for each content, as it stands behind ``KEY=`` on the command line; empty where that
        content has no such field.
    """
    leaves = [dict(_leaves(content, "")) for content in contents]
    found = {}
    for key in dict.fromkeys(key for fields in leaves for key in fields):
        # As text: to Python true is 1.
        values = [dump_flow(fields[key]) if key in fields else "" for fields in leaves]
        if any(value != values[0] for value in values):
            found[key] = values
    return found


def _leaves(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
