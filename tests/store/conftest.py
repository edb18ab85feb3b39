"""A store of objects, and the machine that it is seen from."""

from pathlib import Path

import pytest

from tests.object_store import Server


@pytest.fixture
def store(s3: Server, machine: None) -> str:
    """An empty store, seen from a machine that holds nothing of it."""
    return f"s3://{s3.new_bucket()}/runs"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_machine("a", tmp_path, monkeypatch)
    monkeypatch.setattr("raykd.runners.local.prepare_host", lambda threads=None: None)


def on_machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / f"machine-{name}"
    monkeypatch.setenv("RAYKD_CACHE", str(folder))
    return folder
