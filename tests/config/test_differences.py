"""Contents are compared by their dotted fields."""

from raykd.config.differences import differences


def test_only_what_differs_is_named_with_all_its_values() -> None:
    one = {"a": 1, "b": {"c": [1, 2], "d": "1e-3"}, "e": {}}
    other = {"a": 1, "b": {"c": [1, 3], "f": None}, "e": {}}
    assert differences(one, other, one) == {
        "b.c": ["[1, 2]", "[1, 3]", "[1, 2]"],
        "b.d": ["'1e-3'", "", "'1e-3'"],
        "b.f": ["", "null", ""],
    }


def test_a_section_and_none_differ() -> None:
    assert differences({"a": {"b": 1}}, {"a": None}) == {"a.b": ["1", ""], "a": ["", "null"]}


def test_equal_contents_differ_in_nothing() -> None:
    assert differences({"a": {"b": [1]}}, {"a": {"b": [1]}}) == {}


def test_what_is_written_otherwise_differs_though_it_is_equal_to_python() -> None:
    assert differences({"a": True, "b": [0]}, {"a": 1, "b": [False]}) == {"a": ["true", "1"], "b": ["[0]", "[false]"]}
    assert differences({"a": float("nan")}, {"a": float("nan")}) == {}, "as which one not a number is not another"
