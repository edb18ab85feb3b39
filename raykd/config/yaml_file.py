"""Read a YAML mapping the strict way: plain data only, no aliases, no duplicate keys; and say where it is wrong."""

import re
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from raykd.config.field_names import field_hint
from raykd.errors import UsageError, shortened

_MAX_BYTES = 1_000_000
_MOST_BITS, _SHOWN_DIGITS = 8192, 20  # of a whole number: Python writes no longer ones
_MOST_FAULTS = 20  # told of a file: looking for the nearest name of each takes a while
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_SECTION = "section"
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in _KINDS}


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader of what JSON knows: no aliases (they expand to gigabytes), duplicate keys, dates, sets."""

    yaml_constructors = {
        tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _PLAIN
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a word, not a list or mapping", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} appears twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Ambiguous(yaml.constructor.ConstructorError):
    """A number that different readers take for different ones."""


class _Loader(_StrictLoader):
    """The strict loader for files of ours, whose numbers are what a reader takes for numbers, as Python does.

    YAML 1.1 takes 0100 for 64, 12:30 for 750 and 1e-3 for text. Here the first is refused, the second is text and the
    third a number. Hexadecimal and binary numbers bear their base, and stay.
    """

    def construct_yaml_int(self, node: Any) -> int:
        if _LEADING_ZERO.fullmatch(node.value):
            problem = (
                f"{node.value} is octal to some and decimal to others: write {int(node.value)}, or, where text is "
                f"meant, {node.value!r} in quotes"
            )
            raise _Ambiguous(None, None, problem, node.start_mark)
        value = int(node.value, 0)
        if value.bit_length() > _MOST_BITS:
            raise ValueError(f"{node.value[:_SHOWN_DIGITS]}... is larger than any number that is meant here")
        return value

    def construct_yaml_float(self, node: Any) -> float:
        return float(_INFINITE.sub(r"\1\2", node.value))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that puts text in quotes which our loader, or YAML 1.1, would take for a number."""


_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_LEADING_ZERO = re.compile(rf"[-+]?0_?{_DIGITS}")
_INFINITE = re.compile(r"([-+]?)\.(inf|nan)", re.IGNORECASE)
_NUMBERS = {
    "tag:yaml.org,2002:int": rf"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|{_DIGITS})",
    "tag:yaml.org,2002:float": rf"[-+]?(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?"
    rf"|[-+]?{_DIGITS}[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read_text(path: Path) -> str:
    """Read a user's text file.

    Raises:
        UsageError: for a file that is not UTF-8 under 1 MB.
    """
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # it is waited for, or never ends
            raise UsageError(f"{path}: cannot be read as text (it is no regular file)")
        if found.st_size > _MAX_BYTES:
            raise UsageError(f"{path}: larger than {_MAX_BYTES} bytes, so not one of our files")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text ({error})") from None


def load_yaml(path: Path, *, foreign: bool = False) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Args:
        path: the file.
        foreign: whether its format is another tool's, which takes numbers as YAML 1.1 does (``defaultMode: 0644``).

    Raises:
        UsageError: with file and line, for anything but a plain mapping of plain data under 1 MB.
    """
    text = read_text(path)
    try:
        data = yaml.load(text, Loader=_StrictLoader if foreign else _Loader)  # noqa: S506  SafeLoaders made stricter
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a mapping of keys to values, got {type(data).__name__}")
    return data


def parse_value(text: str, key: str = "") -> Any:
    """Read one value of a KEY=VALUE pair as YAML.

    Raises:
        UsageError: with the key, for what is no plain data.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except _Ambiguous as error:
        raise UsageError(f"{f'{key}: ' if key else ''}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(
            f"{f'{key}: ' if key else ''}cannot read the value {shortened(text)}; quote it, as in KEY='\"text\"'"
        ) from None


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Return plain data as YAML that ``load_yaml`` reads back to equal data."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False)


def dump_flow(value: Any) -> str:
    """Return plain data as YAML on one line, which ``load_yaml`` reads back behind a key."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=sys.maxsize)
    return text.removesuffix("\n").removesuffix("\n...")


def section_error(text: str) -> PydanticCustomError:
    """Return the error for a validator of a whole section to raise, whose content ``explain`` does not repeat."""
    return PydanticCustomError(_SECTION, "{text}", {"text": text})


def explain(error: ValidationError, source: str, model: type[BaseModel], raw: Any) -> UsageError:
    """Turn pydantic's report on ``raw``, which is no ``model``, into one line with the nearest names."""
    lines = []
    found = error.errors()
    for item in found[:_MOST_FAULTS]:
        names, siblings, tags = _locate(item["loc"], model, raw)
        path = ".".join(names)
        if item["type"] == "extra_forbidden":
            hint = field_hint(names[-1], siblings, "".join(f"{name}." for name in names[:-1]))
            hint = hint or field_hint(path, _fields(model, raw))
            lines.append(f"{path!r} is not a field here{hint}")
        elif item["type"] == "missing":
            lines.append(f"{path!r} is required")
        elif not path:  # of the file as a whole, which is too much to repeat
            lines.append(item["msg"].removeprefix("Value error, "))
        elif item["type"] == "union_tag_invalid":
            context = item["ctx"]
            lines.append(f"{path}: got the name {shortened(context['tag'])}; it is one of {context['expected_tags']}")
        elif item["type"] == "union_tag_not_found":
            lines.append(f"{path}: 'name' is required; it is one of {', '.join(map(repr, tags))}")
        elif item["type"].startswith("union_tag") or item["type"] == _SECTION:
            lines.append(f"{path}: {item['msg']}")
        else:
            message = item["msg"].removeprefix("Value error, ") + _hint(item["type"], item["input"])
            lines.append(f"{path}: got {shortened(item['input'])}; {message}")
    if len(found) > _MOST_FAULTS:
        lines.append(f"and {len(found) - _MOST_FAULTS:,} more faults")
    return UsageError(f"{source}: " + "; ".join(lines))


def _hint(error_type: str, value: Any) -> str:
    """Say what to write where YAML has taken a value for another kind than was meant."""
    if isinstance(value, bool) and error_type in ("literal_error", "string_type", "model_type"):
        return " (yes, no, on and off are true and false to YAML: put it in quotes if text is meant)"
    if isinstance(value, int | float) and error_type in ("string_type", "model_type"):
        return " (put it in quotes if text is meant)"
    if error_type in ("int_parsing", "float_parsing") and isinstance(value, str):
        return f" (write digits, such as {'100' if error_type == 'int_parsing' else '0.1 or 1e-3'})"
    return ""


def _locate(location: Iterable[int | str], model: type[BaseModel], raw: Any) -> tuple[list[str], list[str], list[str]]:
    """Return the keys that lead to an error, the keys allowed beside it, and the names of sections allowed there.

    The keys are without pydantic's tags of unions.
    """
    kind: Any = model
    names: list[str] = []
    siblings: list[str] = []
    for part in location:
        if part in (tagged := _tagged_members(kind)):
            kind = tagged[part]
            continue
        sections = _sections_in(kind)
        chosen = [section for section in sections if part in _tags(section)]
        if len(sections) > 1 and chosen:
            kind = chosen[0]
            continue
        siblings = list(_fields(sections[0], raw)) if sections else []
        kind = _type_at(kind, sections, part)
        names.append(str(part))
        is_there = (isinstance(raw, dict) and part in raw) or (isinstance(raw, list) and part in range(len(raw)))
        raw = raw[part] if is_there else None
    return names, siblings, [tag for section in _sections_in(kind) for tag in _tags(section)]


def _type_at(kind: Any, sections: list[type[BaseModel]], part: int | str) -> Any:
    """Return the type of the value at ``part`` of a section, mapping or list; None where no value is allowed."""
    if sections:
        return {_key(field, info): info.annotation for field, info in sections[0].model_fields.items()}.get(str(part))
    contents = [inner for member in union_members(kind) for inner in get_args(member) if inner is not ...]
    return contents[-1] if contents else None


def _fields(section: type[BaseModel], raw: Any, prefix: str = "") -> Iterable[str]:
    """Name the fields that a broken section could have set, those of the sections in it included."""
    for field, info in section.model_fields.items():
        name = _key(field, info)
        yield prefix + name
        value = raw.get(name) if isinstance(raw, dict) else None
        inner = _sections_in(info.annotation)
        if len(inner) > 1:
            inner = [one for one in inner if isinstance(value, dict) and value.get("name") in _tags(one)]
        for one in inner:
            if one is not section:
                yield from _fields(one, value, f"{prefix}{name}.")


def _key(field: str, info: FieldInfo) -> str:
    return info.alias or field


def _tags(section: type[BaseModel]) -> tuple[Any, ...]:
    """Return the allowed values of a section's ``name``, which tell it from the others of a union."""
    name = section.model_fields.get("name")
    return get_args(name.annotation) if name else ()


def _tagged_members(kind: Any) -> dict[int | str, Any]:
    """Return the types of a union that a value's form tells apart, by the tags that pydantic puts into locations."""
    if get_origin(kind) not in (Annotated, Union, UnionType):
        return {}
    tags = [each.tag for each in get_args(kind)[1:] if isinstance(each, Tag)]
    if tags:
        return {tags[0]: get_args(kind)[0]}
    return {tag: member for inner in get_args(kind) for tag, member in _tagged_members(inner).items()}


def _sections_in(kind: Any) -> list[type[BaseModel]]:
    return [member for member in union_members(kind) if isinstance(member, type) and issubclass(member, BaseModel)]


def union_members(kind: Any) -> Iterable[Any]:
    """Yield the types of a union, or the type itself."""
    if get_origin(kind) not in (Annotated, Union, UnionType):
        yield kind
        return
    for member in get_args(kind):
        yield from union_members(member)
