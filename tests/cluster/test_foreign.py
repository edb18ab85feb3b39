"""Files of other tools: fields that are read are checked, all others are left to the tool."""

import pytest

from raykd.cluster.foreign import LARGEST, Count, ForeignConfig, without_nulls
from raykd.errors import UsageError


class Group(ForeignConfig):
    count: Count = 3


@pytest.mark.parametrize("content", [{}, {"count": None}, {"count": None, "newer": {"x": [None]}}])
def test_a_key_without_a_value_or_of_another_time_is_none(content: dict[str, object]) -> None:
    assert Group.read(content, "a.yaml") == Group()


@pytest.mark.parametrize("count", [-1, LARGEST + 1, 1.5, "many"])
def test_a_value_that_cannot_be_read_is_named_with_its_file_and_key(count: object) -> None:
    with pytest.raises(UsageError, match="^a.yaml: count: got "):
        Group.read({"count": count}, "a.yaml")


def test_nulls_go_from_mappings_and_are_empty_items_of_lists() -> None:
    assert without_nulls({"a": None, "b": [None, {"c": None}], "d": 0}) == {"b": [{}, {}], "d": 0}
