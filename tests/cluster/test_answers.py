"""What jobs make of a head that answers badly or is lost on the way; the head is a server that speaks as Ray's does."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from raykd.cli.app import app
from raykd.cluster import jobs as module
from raykd.cluster.dashboard import PRECISION, RUNS
from raykd.cluster.jobs import Jobs
from raykd.errors import InProgress, SetupError
from tests.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's client gives it

LOG = "one\ntwo\nthree\n"


class Head:
    """Answers with what is set: a status and a text for each page, and what becomes of each connection to a log."""

    def __init__(self) -> None:
        self.version: tuple[int, str] = (200, '{"ray_version": "2.60.0"}')
        self.listed: tuple[int, str] | None = None
        self.jobs = [told("x-s0", "RUNNING")]
        self.looks: list[int] = []
        """Statuses of the next answers about a job; then 200."""
        self.tails: list[str] = []
        """What the next connections to a log do (cut, close, refuse); then the log is told, and the job ends well."""
        self.ends = "SUCCEEDED"
        self.lost_logs: set[str] = set()
        """Ids of the jobs whose log cannot be read."""

    async def version_page(self, request: web.Request) -> web.Response:
        return web.Response(status=self.version[0], text=self.version[1], content_type="application/json")

    async def list_page(self, request: web.Request) -> web.Response:
        if self.listed is not None:
            return web.Response(status=self.listed[0], text=self.listed[1])
        return web.json_response(self.jobs)

    async def job_page(self, request: web.Request) -> web.Response:
        status = self.looks.pop(0) if self.looks else 200
        return web.json_response(self.jobs[0], status=status)

    async def whole_log_page(self, request: web.Request) -> web.Response:
        job = request.match_info["job"]
        if job in self.lost_logs:
            return web.Response(status=500, text="Traceback\nthe agent of the node is gone")
        return web.json_response({"logs": f"{job}  step 109/600  8.2 steps/s  ETA 1:54\n"})

    async def log_page(self, request: web.Request) -> web.StreamResponse:
        way = self.tails.pop(0) if self.tails else "end"
        if way == "refuse":
            return web.Response(status=502)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(LOG if way == "end" else LOG[: -2 * len(self.tails) or None])
        if way == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif way == "end":
            self.jobs[0] = told(self.jobs[0]["metadata"]["run"], self.ends)
        return socket


def told(run: str, status: str, runs: str = "") -> dict[str, Any]:
    metadata = {"run": run, **({RUNS: runs} if runs else {})}
    return {"type": "SUBMISSION", "submission_id": f"raykd-{run}", "status": status, "metadata": metadata,
            "entrypoint": "", "start_time": 1, "driver_exit_code": None}  # fmt: skip


@contextmanager
def served(head: Head) -> Iterator[str]:
    loop, port = asyncio.new_event_loop(), free_port()
    pages = web.Application()
    pages.router.add_get("/api/version", head.version_page)
    pages.router.add_get("/api/jobs/", head.list_page)
    pages.router.add_get("/api/jobs/{job}", head.job_page)
    pages.router.add_get("/api/jobs/{job}/logs", head.whole_log_page)
    pages.router.add_get("/api/jobs/{job}/logs/tail", head.log_page)
    runner = web.AppRunner(pages, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.setattr(module, "_RETRY_DELAYS", (0.01, 0.01))
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    return Head()


def followed(head: Head) -> tuple[int, str]:
    said: list[str] = []
    with served(head) as url:
        jobs = Jobs(url)
        return jobs.follow(jobs.all()[0], said.append), "".join(said)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ((404, "no such page"), "answers, but not as Ray's dashboard should .*404.*is the right port forwarded"),
        ((200, "<html>"), "answers, but not as Ray's dashboard should"),
        ((200, "{}"), r"\(it tells no version of Ray\)"),
        ((200, "[]"), r"\(it tells no version of Ray\)"),
        ((502, "bad gateway"), "should .502"),
    ],
)
def test_another_web_server_is_told_in_a_line(head: Head, version: tuple[int, str], says: str) -> None:
    head.version = version
    with served(head) as url, pytest.raises(SetupError, match=says) as caught:
        Jobs(url)
    assert url in str(caught.value)


@pytest.mark.parametrize("status", [500, 502])
def test_a_head_that_fails_is_told_in_a_line(head: Head, status: int) -> None:
    head.listed = (status, "Traceback\n" * 50)
    with served(head) as url, pytest.raises(SetupError, match=f"status code {status}: Traceback\\): ") as caught:
        Jobs(url).all()
    assert len(str(caught.value).splitlines()) == 1


def test_a_head_that_is_gone_is_told_in_a_line(head: Head) -> None:
    with served(head) as url:
        jobs = Jobs(url)
        job = jobs.all()[0]
    for ask in (jobs.all, lambda: jobs.stop(job), lambda: jobs.logs(job)):
        with pytest.raises(SetupError, match="nothing answers at"):
            ask()
    with pytest.raises(SetupError, match=r"tells no more of job raykd-x-s0 \(.*\), which may go on"):
        jobs.follow(job, lambda text: None)
    with pytest.raises(SetupError, match="answers, but not as|nothing answers"):
        Jobs("http://127.0.0.1:99999")


@pytest.mark.parametrize("way", ["cut", "close"])
def test_a_connection_may_be_lost_however_often_if_it_comes_back(head: Head, way: str) -> None:
    head.tails = [way] * 7
    assert followed(head) == (0, LOG), "every line once"
    assert head.tails == []


def test_a_head_may_be_away_for_a_while(head: Head) -> None:
    head.tails, head.looks, head.ends = ["refuse", "cut", "refuse"], [200, 500], "FAILED"
    assert followed(head) == (1, LOG)
    head.tails, head.jobs = ["refuse"] * 3, [told("x-s0", "RUNNING")]
    with pytest.raises(SetupError, match="tells no more of job raykd-x-s0"):
        followed(head)


def test_the_end_of_a_job_whose_log_is_lost_is_known(head: Head, caplog: pytest.LogCaptureFixture) -> None:
    head.jobs, head.tails = [told("x-s0", "STOPPED")], ["cut"] * 3
    assert followed(head)[0] == 130
    assert "the rest of what job raykd-x-s0 said cannot be read" in caplog.text


def test_a_run_at_work_is_joined_and_refused_to_other_options(head: Head) -> None:
    head.jobs = [told("x-s0", "FAILED"), told("x-s0-3seeds", "RUNNING", "x-s0\nx-s1\nx-s2")]
    with served(head) as url:
        jobs = Jobs(url)
        job, new = jobs.submit("x-s0-3seeds", "true", {}, {RUNS: "x-s0\nx-s1\nx-s2"})
        assert (job.id, new) == ("raykd-x-s0-3seeds", False)
        says = (
            r"job raykd-x-s0-3seeds trains x-s1 too, .*wait for its end \(`raykd jobs logs -f x-s0-3seeds`\) or end it"
        )
        with pytest.raises(InProgress, match=says):
            jobs.submit("x-s1", "true", {}, {RUNS: "x-s1"})
        with pytest.raises(SetupError, match="takes no such job: .*405"):
            jobs.submit("x-s3", "true", {}, {RUNS: "x-s3"})


def test_a_run_at_work_in_another_precision_is_not_joined(head: Head) -> None:
    head.jobs = [told("x-s0", "RUNNING", "x-s0")]
    head.jobs[0]["metadata"][PRECISION] = "fp32"
    with served(head) as url:
        jobs = Jobs(url)
        assert jobs.submit("x-s0", "true", {}, {RUNS: "x-s0", PRECISION: "fp32"})[1] is False
        with pytest.raises(InProgress, match="job raykd-x-s0 trains it in fp32, and not in bf16: wait for its end"):
            jobs.submit("x-s0", "true", {}, {RUNS: "x-s0", PRECISION: "bf16"})


def test_a_log_that_is_lost_hides_no_other_job(head: Head, tmp_path: Path) -> None:
    head.jobs, head.lost_logs = [told("x-s0", "RUNNING"), told("x-s1", "RUNNING")], {"raykd-x-s1"}
    with served(head) as url:
        (tmp_path / "far.yaml").write_text(f"{{address: auto, dashboard: '{url}'}}")
        where = ["--cluster", str(tmp_path / "far.yaml"), "--json"]
        listed, status = (CliRunner().invoke(app, ["jobs", *what, *where]) for what in (["list"], ["status", "x-s1"]))
    assert (listed.exit_code, status.exit_code) == (0, 0), listed.output + status.output
    steps = {job["run"]: job["step"] for job in json.loads(listed.stdout)["jobs"]}
    assert steps == {"x-s0": "109/600, ETA 1:54", "x-s1": None}
    assert json.loads(status.stdout)["step"] is None
