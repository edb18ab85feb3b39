import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from raykd.config.runtime import Runtime
from raykd.config.yaml_file import dump_yaml, explain, load_yaml, parse_value
from raykd.errors import UsageError

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "made.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_plain_data_is_read(tmp_path: Path) -> None:
    text = "# remark\na: 1\nb: {c: [1.5, x, true, null]}\n"
    assert load_yaml(written(tmp_path, text)) == {"a": 1, "b": {"c": [1.5, "x", True, None]}}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' appears twice"),
        ("a:\n  b: 1\n  b: 1\n", 3, "'b' appears twice"),
        ("a: {b: 1, b: 2}\n", 1, "'b' appears twice"),
        (LAUGHS, 2, "aliases are not allowed"),
        ("a: &x [1]\nb: {<<: *x}\n", 2, "aliases are not allowed"),
        ("a:\n\tb: 1\n", 2, "found character '\\\\t'"),
        ("a: 1\nb: !!python/object:os.system {}\n", 2, "python/object"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "python/object/apply"),
        ("a: !import_call {key: x}\n", 1, "!import_call"),
        ("a: 1\nb: !!set {x}\n", 2, "set"),
        ("a: 1\nb: 2024-01-01\n", 2, "timestamp"),
        ("a: 1\nb: !!binary aGVsbG8=\n", 2, "binary"),
        ("a: 1\n? [b]\n: 2\n", 2, "a key must be a word"),
        ("a: {{b: 1}: 2}\n", 1, "a key must be a word"),
        ("a: !!map [b]\n", 1, "expected a mapping"),
        ("a: [1\nb: 2\n", 2, "expected"),
        ("a: 'b\n", 2, "end of stream"),
        ("a: 1\nb: 0100\n", 2, "0100 is octal to some .*: write 100, or, where text is meant, '0100' in quotes"),
        ("a: [1, -08]\n", 1, "-08 is octal to some .*: write -8"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(UsageError, match=rf"made\.yaml:{line}: .*{says}"):
        load_yaml(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n", "expected a mapping .* got list"),
        ("", "got NoneType"),
        ("just words", "got str"),
        ("a: !!int x\n", "invalid literal"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("a: \x00\n", "special characters"),
        (b"a: \xff\xfe\n", "cannot be read as text"),
        ("a: 1 # " + "x" * 2_000_000, "larger than"),
    ],
)
def test_what_is_no_mapping_of_plain_data_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s)made\.yaml.*{says}") as caught:
        load_yaml(written(tmp_path, text))
    assert caught.value.exit_code == 2


def test_a_number_that_python_does_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: 0x{'f' * 6000}\n")
    with pytest.raises(UsageError, match=r"0xffff\w*... is larger than any number"):
        load_yaml(tmp_path / "a.yaml")
    with pytest.raises(UsageError, match="a: cannot read the value"):
        parse_value("0x" + "f" * 6000, "a")


def test_the_first_of_many_faults_are_told() -> None:
    raw = {f"field_{index}": index for index in range(20_000)}
    with pytest.raises(ValidationError) as caught:
        Runtime.model_validate(raw)
    began = time.monotonic()
    told = str(explain(caught.value, "it", Runtime, raw))
    assert told.endswith("and 19,980 more faults")
    assert time.monotonic() - began < 10


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent.yaml"):
        load_yaml(tmp_path / "absent.yaml")


def test_nothing_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    bomb = f"a: !!python/object/apply:os.mkdir ['{trace}']\n"
    with pytest.raises(UsageError):
        load_yaml(written(tmp_path, bomb))
    with pytest.raises(UsageError):
        parse_value(f"!!python/object/apply:os.mkdir ['{trace}']")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("x", "x"), ("[a, 1]", ["a", 1]), ("{a: 1}", {"a": 1}), ("", None)],
)
def test_values_are_read_as_yaml(text: str, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize("text", ["[1", "&a [1, *a]", "!!int x", "{[1]: 2}", "[" * 20_000])
def test_a_broken_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the value"):
        parse_value(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("1.5e3", 1500.0),
        ("-2e-4", -0.0002),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("+1", 1),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("0x1F", 31),
        ("0", 0),
        ("0100.5", 100.5),
        (".inf", float("inf")),
    ],
)
def test_what_a_reader_takes_for_a_number_is_one(tmp_path: Path, text: str, value: float) -> None:
    for read in (parse_value(text), load_yaml(written(tmp_path, f"a: [{text}]\n"))["a"][0]):
        assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["12:30", "1:30:00", "12:30.5", "1__0", "_1", "1_", "0o17", "e5", ".", "1e5x", "v1"])
def test_all_else_is_text(tmp_path: Path, text: str) -> None:
    assert parse_value(text) == text
    assert load_yaml(written(tmp_path, f"a: {text}\n")) == {"a": text}


@pytest.mark.parametrize("text", ["0100", "010", "-0100", "+007", "00", "0_100", "[1, 010]", "{a: 010}"])
def test_a_number_that_readers_take_differently_is_refused_with_its_key(text: str) -> None:
    with pytest.raises(UsageError, match=r"^schedule\.steps: \S+ is octal to some and decimal to others: write -?\d+,"):
        parse_value(text, "schedule.steps")
    assert parse_value("'0100'") == "0100"


@pytest.mark.parametrize("text", ["yes", "on", "true", "no", "off", "false"])
def test_words_of_yaml_are_true_and_false(text: str) -> None:
    assert parse_value(text) is (text in ("yes", "on", "true"))


def test_a_file_of_another_tool_has_the_numbers_of_its_yaml(tmp_path: Path) -> None:
    path = written(tmp_path, "defaultMode: 0644\n")
    assert load_yaml(path, foreign=True) == {"defaultMode": 0o644}
    with pytest.raises(UsageError, match=r"made\.yaml:1: 0644 is octal"):
        load_yaml(path)


def test_what_is_written_is_read_back_in_its_type(tmp_path: Path) -> None:
    words = ["0100", "12:30", "1e5", "1e-3", ".5", "1.", "1_000", "+1", "0x1", "yes", "x", "", "~", "2024-01-01", "-"]
    content = {"a": [*words, 1e-5, 1e300, 5, True, None, {"0100": "1e5"}]}
    assert load_yaml(written(tmp_path, dump_yaml(content))) == content


def test_the_beginning_of_a_long_value_is_enough() -> None:
    with pytest.raises(UsageError, match=r"cannot read the value '1{199}\.\.\.;") as caught:
        parse_value("1" * 10_000)
    assert len(str(caught.value)) < 400
