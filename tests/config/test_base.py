"""What every section refuses, whatever its fields are."""

import math

import pytest
from pydantic import ValidationError

from raykd.config.base import Config


class Section(Config):
    rate: float = 1.0


@pytest.mark.parametrize("given", [{"rte": 1.0}, {"rate": math.nan}, {"rate": math.inf}, {"rate": "fast"}])
def test_a_section_takes_its_fields_and_finite_numbers_alone(given: dict[str, object]) -> None:
    assert Section(rate=2).rate == 2
    with pytest.raises(ValidationError):
        Section.model_validate(given)
