"""Where Ray takes jobs, and an address that is none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raykd.cluster.dashboard import dashboard_address
from raykd.cluster.jobs import _warn_of_open_dashboard
from raykd.cluster.submission import load_job_cluster
from raykd.errors import UsageError
from tests.cluster.test_submission import CLUSTER


@pytest.mark.parametrize("address", ["http://me:hush@far:8265", "http://far:99999", "far:8265"])
def test_rays_variable_holds_an_address_or_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://far:8265/")
    assert dashboard_address(CLUSTER) == "http://far:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    for ask in (lambda: load_job_cluster(None), lambda: dashboard_address(CLUSTER)):
        with pytest.raises(
            UsageError, match="RAY_API_SERVER_ADDRESS in the environment: a dashboard is http:"
        ) as caught:
            ask()
        assert "hush" not in str(caught.value)


@contextmanager
def dashboard(host: str, code: int) -> Iterator[str]:
    """Something that answers like the version page of a dashboard."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer((host, 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("host", "code", "says"),
    [
        ("127.0.0.2", 200, "takes jobs from anybody who reaches it"),  # not one of the names of this machine
        ("127.0.0.2", 401, "is not encrypted: who listens on the way reads the token"),
        ("127.0.0.1", 200, None),
        ("127.0.0.1", 401, None),
    ],
)
def test_who_may_reach_a_cluster_is_looked_at(
    host: str, code: int, says: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with dashboard(host, code) as url:
        _warn_of_open_dashboard(url)
    told = [record.getMessage() for record in caplog.records]
    assert (not told) if says is None else (len(told) == 1 and says in told[0] and url in told[0])
