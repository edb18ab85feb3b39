from pathlib import Path

import pytest

from raykd.config.data_root import data_place, data_root, expanded
from raykd.errors import UsageError


def test_the_home_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    monkeypatch.setenv("RAYKD_DATA", "~/data")
    assert data_root() == Path("/users/me/data")
    assert data_place("~/theirs") == "/users/me/theirs"
    assert data_place("s3://bucket/~x") == "s3://bucket/~x"


def test_a_home_that_nobody_knows_is_named() -> None:
    with pytest.raises(UsageError, match=r"RAYKD_DATA is '~no-such-user/data', and no home is known .* whole path"):
        expanded("~no-such-user/data", "RAYKD_DATA")
