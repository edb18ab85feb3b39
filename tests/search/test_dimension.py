"""Which values a field may take, and how a study stores them."""

from pathlib import Path

from raykd.search.dimension import from_parameter, to_parameter
from tests.search.test_space import made


def test_a_choice_may_be_anything_that_a_recipe_takes(tmp_path: Path) -> None:
    space = made(tmp_path, recipe="kd_digits", space={"data.augment": {"choice": [[], ["crop"]]}})
    dimension = space.space["data.augment"]
    kept = [to_parameter(value) for value in dimension.samples]
    assert kept == ["[]", '["crop"]']
    assert [from_parameter(dimension, one) for one in kept] == [[], ["crop"]]
