"""Signs of life in Ray's table: who is silent is named with the state of its process, and so is who is waited for."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from raykd.cluster.config import Cluster
from raykd.distributed.progress import PROGRESS
from raykd.runners.ray.heartbeat import Heartbeat, WorkerWatch
from raykd.runners.ray.internals import read_shared, write_shared
from raykd.runners.ray.process import start_time

pytestmark = pytest.mark.ray


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def watching(job: str, **fields: Any) -> WorkerWatch:
    """A watch that looks at every call."""
    watch = WorkerWatch(job, Cluster(name="test", **{"hang_seconds": 0.4, **fields}))
    watch._every = 0.0
    return watch


def put(ray: ModuleType, job: str, rank: int, pid: int, **fields: Any) -> None:
    """Write the sign of life that a worker of the process would."""
    node = ray.get_runtime_context().get_node_id()
    worker = {"run": "tiny-s0", "rank": rank, "node": "10.0.0.7", "node_id": node, "pid": pid}
    place = {"started": start_time(pid), "step": 120, "waiting": None, "straggler": None, "beat": 1}
    write_shared(f"{job}/tiny-s0/{rank}", json.dumps({**worker, **place, **fields}))


def looked_for(watch: WorkerWatch, seconds: float, stopping: bool = False) -> list[str]:
    """Look again and again; return the lines of who is given up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if hung := watch.look(stopping):
            watch.end(hung)
            return [each.line for each in hung]
        time.sleep(0.05)
    return []


@pytest.mark.parametrize(("policy", "stopping"), [("wait", False), ("restart", False), ("fail", False), ("wait", True)])
def test_a_stopped_process_is_named_and_given_up_as_the_cluster_says(
    ray_session: ModuleType,
    child: "subprocess.Popen[bytes]",
    caplog: pytest.LogCaptureFixture,
    policy: str,
    stopping: bool,
) -> None:
    job = f"silent-{policy}-{stopping}"
    os.kill(child.pid, signal.SIGSTOP)
    put(ray_session, job, 1, child.pid)
    watch, gives_up = watching(job, on_hang=policy), policy != "wait" or stopping
    lines = looked_for(watch, 20.0 if gives_up else 1.0, stopping)
    named = (
        rf"worker 1 \(node 10.0.0.7, process {child.pid}\) has not answered for \d+ s: its process is stopped; last "
    )
    assert sum(bool(re.fullmatch(f"tiny-s0: {named}step 120", line)) for line in caplog.messages) == 1
    assert bool(lines) == gives_up
    if gives_up:
        assert re.fullmatch(f"{named}step 120", lines[0])
        assert child.wait(10) == -signal.SIGKILL
        assert read_shared(job) == {}
    else:
        assert child.poll() is None
    watch.close()
    assert read_shared(job) == {}


def test_a_process_that_is_gone_is_nobodys_hang(
    ray_session: ModuleType, child: "subprocess.Popen[bytes]", caplog: pytest.LogCaptureFixture
) -> None:
    put(ray_session, "gone", 0, child.pid)
    put(ray_session, "gone", 1, os.getpid(), started="1")  # the id is another process's now
    child.kill()
    child.wait()
    watch = watching("gone", on_hang="fail")
    assert looked_for(watch, 1.0) == []
    assert caplog.messages == []
    assert read_shared("gone") == {}


def test_a_worker_is_gone_with_its_node(ray_session: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """Ray knows, and goes on without: that is no hang that ends a run."""
    put(ray_session, "lost", 1, os.getpid(), node_id="0" * 56)
    assert looked_for(watching("lost", on_hang="fail"), 1.0) == []
    assert caplog.messages == []
    assert read_shared("lost") == {}


def test_who_is_waited_for_is_named(ray_session: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    pid = os.getpid()
    watch = watching("lag", hang_seconds=30)
    put(ray_session, "lag", 0, pid, waiting=31.0)
    put(ray_session, "lag", 1, pid, step=119, straggler="worker 1 computes 99 % of the time")
    put(ray_session, "lag", 2, pid, waiting=30.2)
    watch.look(False)
    watch.look(False)
    assert caplog.messages == [
        f"tiny-s0: 2 workers have waited 31 s for worker 1 (node 10.0.0.7, process {pid}); last step 119",
        "tiny-s0: worker 1 computes 99 % of the time",
    ]
    for rank in range(3):
        put(ray_session, "net", rank, pid, waiting=40.0)
    watching("net", hang_seconds=30).look(False)
    assert "3 workers have waited 40 s for each other (is the network down?)" in caplog.messages[-1]
    for job in ("lag", "net"):
        watching(job).close()


def test_a_driver_that_slept_itself_blames_nobody(
    ray_session: ModuleType, child: "subprocess.Popen[bytes]", caplog: pytest.LogCaptureFixture
) -> None:
    put(ray_session, "asleep", 0, child.pid)
    watch = WorkerWatch("asleep", Cluster(name="test", hang_seconds=0.4, on_hang="fail"))
    for _ in range(3):
        time.sleep(0.5)  # longer than a worker may be silent
        assert watch.look(False) == []
    assert caplog.messages == []
    watch.close()


def test_a_worker_beats_while_it_waits_and_leaves_no_sign(ray_session: ModuleType) -> None:
    def beat() -> dict[str, Any]:
        (text,) = read_shared("beating").values()
        found: dict[str, Any] = json.loads(text)
        return found

    with Heartbeat("beating", "tiny-s0", 0.05):
        PROGRESS.step = 7
        with PROGRESS.waiting():
            time.sleep(0.3)
            first = beat()
            time.sleep(0.3)
        then = beat()
        time.sleep(0.2)
        assert beat()["waiting"] is None
    assert (first["step"], first["pid"], first["rank"]) == (7, os.getpid(), 0)
    assert then["waiting"] > first["waiting"] > 0
    assert then["beat"] > first["beat"]
    assert read_shared("beating") == {}


def test_a_worker_touches_no_sign_of_another(ray_session: ModuleType) -> None:
    """Such as of a trial of equal values, whose run is the same, or of a rank that begins alike."""
    for rank in (0, 1, 10):
        put(ray_session, "equal", rank, os.getpid())
    before = read_shared("equal")
    with Heartbeat("equal", "tiny-s0", 0.05):
        time.sleep(0.2)
        assert len(read_shared("equal")) == 4
    assert read_shared("equal") == before
    watching("equal").close()
