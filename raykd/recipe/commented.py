"""Write a recipe with a comment on each field."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from raykd.config.yaml_file import dump_flow
from raykd.errors import printable

_WIDTH = 120


def write_commented(content: Mapping[str, Any], comments: Mapping[str, str], head: str) -> str:
    """Return YAML that reads back as ``content``.

    Args:
        content: sections, of which a mapping has a line for each field of its own, what is deeper in braces.
        comments: by dotted names, of sections too.
        head: what stands above all, a line each.
    """
    lines = [f"# {printable(line)}" for line in head.splitlines()]
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            lines += ["", *_above(comments.get(key, ""), ""), f"{key}:"]
            for field, inner in value.items():
                lines += _line(f"  {dump_flow(field)}", inner, comments.get(f"{key}.{field}", ""))
        else:
            lines += ["", *_line(key, value, comments.get(key, ""))]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, comment: str) -> Iterator[str]:
    """Yield a field's line, with its comment behind it where that has room, else above it."""
    line, text = f"{key}: {dump_flow(value)}", _as_one_line(comment)
    if text and len(line) + len(text) + 4 <= _WIDTH:
        yield f"{line}  # {text}"
        return
    yield from _above(text, " " * (len(key) - len(key.lstrip())))
    yield line


def _above(comment: str, indent: str) -> list[str]:
    return textwrap.wrap(_as_one_line(comment), _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _as_one_line(text: str) -> str:
    return printable(" ".join(text.split()))
