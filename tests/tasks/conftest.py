"""A place where nothing is known yet: no data root, and no network of this process."""

from pathlib import Path

import pytest

from raykd.models import in_memory


@pytest.fixture
def bare_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYKD_DATA", raising=False)
    monkeypatch.setattr(in_memory, "_NETWORKS", {})
