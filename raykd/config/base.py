"""The base of every configuration section."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

LARGEST = 2**31 - 1
"""The largest whole number in a configuration: torch, NumPy and Optuna take no larger ones everywhere."""
MAX_TEXT = 4096
"""Characters of a text in a configuration, which may be a path."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tabs and ends of lines


class Config(BaseModel):
    """Base of every configuration section: frozen, an unknown key is an error, and so is what no library could take."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: Any) -> Any:
        for one in _leaves(value):
            if isinstance(one, str) and len(one) > MAX_TEXT:
                raise ValueError(f"a text has at most {MAX_TEXT:,} characters, and this has {len(one):,}")
            if isinstance(one, str) and (found := _CONTROL.search(one)):
                raise ValueError(f"a text has no control characters, and this has {found[0]!r}: leave it out")
            if isinstance(one, int) and abs(one) > LARGEST:
                raise ValueError(f"a whole number is at most {LARGEST:,}")
        return value


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in lists and mappings, keys included; sections have checked their own."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield key
            yield from _leaves(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
    else:
        yield value
