"""Read a YAML mapping the strict way: plain data only, no aliases, no duplicate keys; and say where it is wrong."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raykd.errors import UsageError, did_you_mean

_MAX_BYTES = 1_000_000
_SECRET = re.compile(r"//[^/@\s]*@")  # a name, and perhaps a password, before the host of an address
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
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


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        UsageError: with file and line, for anything but a plain mapping of plain data under 1 MB.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path}: larger than {_MAX_BYTES} bytes, so not one of our files")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text ({error})") from None
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader made stricter
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


def parse_value(text: str) -> Any:
    """Read one value of a KEY=VALUE pair as YAML."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"cannot read the value {text!r}; quote it, as in KEY='\"text\"'") from None


def explain(error: ValidationError, source: str, fields: set[str]) -> UsageError:
    """Turn pydantic's report into one line; ``fields`` are the dotted names to suggest from."""
    lines = []
    for item in error.errors():
        names = [str(part) for part in item["loc"]]
        path = _dotted(names, fields)
        if item["type"] == "extra_forbidden":
            lines.append(f"{path!r} is not a field here{did_you_mean(path, fields - {path})}")
        elif item["type"] == "missing":
            lines.append(f"{path!r} is required")
        elif not path:  # of the file as a whole, which is too much to repeat
            lines.append(item["msg"].removeprefix("Value error, "))
        elif item["type"].startswith("union_tag"):
            lines.append(f"{path}: {item['msg']}")
        else:
            told = item["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: got {_SECRET.sub('//...@', repr(item['input']))}; {told}")
    return UsageError(f"{source}: " + "; ".join(lines))


def _dotted(names: list[str], fields: set[str]) -> str:
    """Join a location, leaving out the tags that pydantic inserts for the members of a union."""
    sections = {field.rsplit(".", 1)[0] for field in fields if "." in field}
    kept: list[str] = []
    for position, name in enumerate(names):
        inside = ".".join(kept)
        is_tag = inside in sections and f"{inside}.name" in fields and position + 1 < len(names)
        if is_tag and f"{inside}.{name}" not in fields | sections:
            continue
        kept.append(name)
    return ".".join(kept)
