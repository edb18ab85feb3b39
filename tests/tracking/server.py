"""MLflow's server on a port of loopback, in a process of its own.

MLflow's own command starts a second process for jobs, and a web server around the same application: twice the time.

python -m tests.tracking.server FOLDER PORT
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.architecture.imports import ROOT
from tests.ports import free_port

START_SECONDS = 300


class TrackingServer:
    """A server with a database and artefacts in a folder; it may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.tracking.server", str(self._folder), str(self._port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                break
            except (OSError, urllib.error.URLError):
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.2)
        # Its first answer of substance waits for the tables to be made.
        urllib.request.urlopen(f"{self.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=120).close()

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def main(folder: Path, port: int) -> None:
    """Serve until the process is killed."""
    os.environ.update(
        _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{folder / 'runs.db'}",
        _MLFLOW_SERVER_ARTIFACT_ROOT="mlflow-artifacts:/",
        _MLFLOW_SERVER_ARTIFACT_DESTINATION=str(folder / "artifacts"),
        _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    from mlflow.server import app

    app.run("127.0.0.1", port, threaded=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
