"""What may stand in a YAML file of ours, as a JSON Schema for editors: a little else than in what is loaded from it.

The schema of packaged files lies beside them, in a checkout and in a wheel alike, and each of these files begins with a
line that names it, as the language servers of editors read it. ``make schemas`` writes them.
"""

from typing import Any

from pydantic import BaseModel

from raykd.config.catalog import SCHEMA_LINE

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def file_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a file of a model, which is called like its file: no ``name`` stands in it.

    Args:
        model: such as ``Cluster``; where it contains itself, as a second stage, neither has that one a name.
    """
    schema = model.model_json_schema()
    for section in (schema, schema.get("$defs", {}).get(model.__name__, {})):
        section.get("properties", {}).pop("name", None)
        if "name" in section.get("required", ()):
            section["required"] = [field for field in section["required"] if field != "name"]
    return {"$schema": _DIALECT, **schema}


def without_schema_line(text: str) -> str:
    """Return a file's text without the line that names its schema, which leads nowhere from another folder."""
    first, _, rest = text.partition("\n")
    return rest if first.startswith(SCHEMA_LINE) else text
