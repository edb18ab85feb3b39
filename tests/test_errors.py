"""Errors as plain data, for other processes."""

import json

import pytest

from raykd.engine.stop import Interrupted
from raykd.errors import (
    CorruptError,
    InProgress,
    RaykdError,
    SetupError,
    error_from_dict,
    error_to_dict,
    one_line,
    printable,
)


@pytest.mark.parametrize("error", [SetupError("disk"), CorruptError("sum"), InProgress("run"), Interrupted(3, 7)])
def test_errors_travel_as_data(error: RaykdError) -> None:
    there = error_from_dict(json.loads(json.dumps(error_to_dict(error))))
    assert type(there) is type(error)
    assert (str(there), there.exit_code) == (str(error), error.exit_code)


def test_an_error_of_an_unknown_class_is_still_shown() -> None:
    there = error_from_dict({"error": "OfANewerVersion", "message": "what happened"})
    assert type(there) is RaykdError
    assert str(there) == "what happened"


def test_what_would_move_the_cursor_is_written_out() -> None:
    assert printable("\x1b[31mred\x9b0m\x07\0\ttab\nline é") == "\\x1b[31mred\\x9b0m\\x07\\x00\ttab\nline é"
    assert one_line("a\tb\nc\r") == "a\tb\\x0ac\\x0d"
