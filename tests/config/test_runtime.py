"""How the arithmetic is done is settled once."""

import pytest
from pydantic import ValidationError

from raykd.config.runtime import Runtime


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Runtime().precision = "bf16"
