"""Which values a field may take, and how a study stores them."""

from pathlib import Path

from raykd.search.dimension import Dimension, from_parameter, to_parameter
from tests.search.test_space import made


def test_a_choice_may_be_anything_that_a_recipe_takes(tmp_path: Path) -> None:
    space = made(tmp_path, recipe="kd_digits", space={"data.augment": {"choice": [[], ["crop"]]}})
    dimension = space.space["data.augment"]
    kept = [to_parameter(value) for value in dimension.samples]
    assert kept == ["[]", '["crop"]']
    assert [from_parameter(dimension, one) for one in kept] == [[], ["crop"]]


def test_what_may_be_drawn_is_told_by_type_too() -> None:
    steps, rate = Dimension(int=(3, 9)), Dimension(loguniform=(0.001, 0.1))
    mixed = Dimension(choice=(1, "1", None))
    assert [value for value in (2, 3, 9, 10, 4.0, True) if steps.contains(value)] == [3, 9, 4.0], "as 4e0 is read"
    assert [value for value in (0, 0.001, 0.05, 1, True, "0.05") if rate.contains(value)] == [0.001, 0.05]
    assert [value for value in (1, 1.0, True, "1", None) if mixed.contains(value)] == [1, "1", None]
    assert not mixed.contains(True) and not mixed.contains(1.0), "equal in Python, and not in a recipe"


def test_a_condition_is_met_by_one_value_or_one_of_a_list() -> None:
    waiting = Dimension(uniform=(0, 1), when={"a": [1, 2], "b": "x"})
    assert waiting.applies({"a": 2, "b": "x"})
    assert not waiting.applies({"a": 3, "b": "x"})
    assert not waiting.applies({"a": 1}), "a field that was not drawn meets none"
