"""Rows of reports, a line each: what is not as it was written is left out."""

import pytest

from raykd.store.rows import format_row, parse_rows

ROW = {"step": 2, "loss/kd": 0.5}


def test_a_row_is_read_back_without_its_sum() -> None:
    assert parse_rows(format_row(ROW) + format_row({**ROW, "step": 4})) == [ROW, {**ROW, "step": 4}]


@pytest.mark.parametrize("line", ["[1]", '{"loss/kd": 1}', '{"step": true}', '{"step": 8, "lo', "[" * 10_000])
def test_a_line_that_is_no_row_is_left_out(line: str) -> None:
    assert parse_rows(format_row(ROW) + line) == [ROW]


def test_a_flipped_digit_is_noticed_and_rows_without_sums_are_those_of_earlier_releases() -> None:
    whole = format_row(ROW)
    assert parse_rows(whole.replace("0.5", "0.7") + whole) == [ROW]
    assert parse_rows(whole + '{"step": 4, "loss/kd": 0.1}\n') == [ROW], "among others with sums it is none"
    assert parse_rows('{"step": 4, "loss/kd": 0.1}\n') == [{"step": 4, "loss/kd": 0.1}]
