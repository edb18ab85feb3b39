"""One server of MLflow for the session, and a process that knows no other tracker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.server import TrackingServer


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of the user's, whose servers these runs are no affair of."""
    names = ("TRACKING_URI", "TRACKING_USERNAME", "TRACKING_PASSWORD", "TRACKING_TOKEN", "EXPERIMENT_NAME")
    for name in (*(f"MLFLOW_{name}" for name in names), "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MODE", "DIR", "PROJECT", "ENTITY", "API_KEY", "BASE_URL", "IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a machine that others use too is slow, not silent
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
