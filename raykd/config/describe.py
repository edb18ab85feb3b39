"""What a section's fields are, for a reader: dotted name, type, default and description of each."""

import json
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

REQUIRED = "required"
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null"}


class Field(NamedTuple):
    """A field that a user may set; ``default`` is written as JSON, or ``required``."""

    name: str
    type: str
    default: str
    description: str


def describe_fields(sections: type[BaseModel] | Sequence[type[BaseModel]], prefix: str = "") -> Iterator[Field]:
    """Yield the fields of a section, and those of the sections in it, by their dotted names.

    Args:
        sections: the section's type, or the types that it may be, which their ``name`` tells apart; of a field that not
            all of them have it is said which have it.
        prefix: how the names begin.
    """
    kinds = [sections] if isinstance(sections, type) else list(sections)
    names = list(dict.fromkeys(name for kind in kinds for name in kind.model_fields))
    names.sort(key=lambda name: name != "name")
    for name in names:
        owners = [kind for kind in kinds if name in kind.model_fields]
        if name == "name" and (len(kinds) > 1 or _tag(kinds[0])):
            choices = " | ".join(_tag(kind) or "text" for kind in kinds)
            yield Field(f"{prefix}name", choices, REQUIRED, "which one it is")
            continue
        info = owners[0].model_fields[name]
        of = f" (of {', '.join(_tag(kind) or kind.__name__ for kind in owners)})" if len(owners) < len(kinds) else ""
        yield Field(f"{prefix}{name}", type_name(info), _default(info), (info.description or "") + of)
        inner = [kind for kind in _bare_members(info.annotation) if _is_section(kind)]
        if inner and not set(inner) & set(kinds):
            yield from describe_fields(inner, f"{prefix}{name}.")


def type_name(info: FieldInfo) -> str:
    """Return a field's type in words, with its bounds, as in ``number > 0``."""
    bounds = [
        f"{sign} {value:g}"
        for one in info.metadata
        for key, sign in _BOUNDS.items()
        if isinstance(value := getattr(one, key, None), int | float)
    ]
    members = _bare_members(info.annotation)
    tags = [tag for member in members if _is_section(member) and (tag := _tag(member))]
    kinds = [f"section {' | '.join(tags)}"] if tags else []
    kinds += [_kind_name(member) for member in members if not (_is_section(member) and _tag(member))]
    kinds = sorted(dict.fromkeys(kinds), key=lambda kind: kind == "null")
    return " or ".join([" ".join([kinds[0], " and ".join(bounds)]).strip(), *kinds[1:]])


def _kind_name(kind: Any) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    if _is_section(kind):
        return "section"
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) in (tuple, list):
        inner = list(dict.fromkeys(_kind_name(one) for one in _bare_members(get_args(kind)[0])))
        return f"list of {' or '.join(inner)}"
    return "mapping" if get_origin(kind) is dict else "any"


def _bare_members(kind: Any) -> list[Any]:
    """Return the types of a union, or the type itself, without what annotations say of them."""
    if get_origin(kind) is Annotated:
        return _bare_members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [one for member in get_args(kind) for one in _bare_members(member)]
    return [kind]


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return REQUIRED
    if isinstance(value, BaseModel):
        tag = _tag(type(value))
        value = ({"name": tag} if tag else {}) | value.model_dump(mode="json", exclude_unset=True)
    return json.dumps(value)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tag(kind: type[BaseModel]) -> str | None:
    """Return the value of a section's ``name`` that tells it from others, None where any name will do."""
    info = kind.model_fields.get("name")
    values = get_args(info.annotation) if info and get_origin(info.annotation) is Literal else ()
    return str(values[0]) if values else None
