"""What all results share: fields that are written as JSON under the keys that the command line prints."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

KEYS = {
    "top1": "accuracy/top1",
    "top5": "accuracy/top5",
    "synthetic_agreement": "blind/agreement",
    "synthetic_kl": "blind/kl",
}


def under(prefix: str, **how: Any) -> Any:
    """Declare a field whose own entries stand in the JSON beside the others, with a prefix."""
    return field(metadata={"prefix": prefix}, **how)


@dataclass(frozen=True)
class Result:
    """Base of all results."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None and each.default is None:
                continue
            plain = _plain(value)
            if "prefix" in each.metadata:
                found |= {each.metadata["prefix"] + key: inner for key, inner in plain.items()}
            else:
                found[each.metadata.get("key", KEYS.get(each.name, each.name))] = plain
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
