"""Nodes of Ray on this machine, one of which is lost: which one, with all on it, and when another takes its place."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raykd.cluster.config import Cluster
from raykd.distributed.processes import below
from raykd.errors import SetupError, UsageError
from raykd.tasks import nodes
from raykd.tasks.nodes import LocalNodes, check_nodes, local_nodes

# A node that says what Ray says, and has a worker that trains what lies in the folder of its number.
STAND_IN = """
worker() { exec -a ray::RayTrainWorker sleep 60 3>"$1"; }
worker "$RUNS/$NUMBER/.lock" & sleep 60 & echo Ray runtime started; wait
"""


class StandIns(LocalNodes):
    """Nodes without Ray; only the first two have workers."""

    def _start(self, *options: str) -> nodes._Node:
        number, self._started = self._started, self._started + 1
        runs, log = Path(os.environ["RUNS"]), self._logs / f"{number}.log"
        (runs / str(number)).mkdir()
        script = STAND_IN if number in (1, 2) else "echo Ray runtime started; sleep 60"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", script], stdin=-1, stdout=file, env={**os.environ, "NUMBER": str(number)},
                start_new_session=True,
            )  # fmt: skip
        return nodes._Node(number, process, log)


def wait_until(count: int, pid: int) -> None:
    deadline = time.monotonic() + 20
    while len(below(pid)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("workers", "away"), [(1, 180.0), ((1, 3), 180.0), (3, 20.0)])
def test_a_node_that_trains_the_run_is_lost_with_all_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | tuple[int, int], away: float
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    made = StandIns(Cluster(name="made", workers=workers), 3, tmp_path, tmp_path)
    try:
        before = made.pids
        for pid in before[:2]:
            wait_until(2, pid)
        on_each = {pid: below(pid) for pid in before}
        made.bring_back(trains_again=True)
        assert made.pids == before, "none is away"
        made.lose(random.Random(1), tmp_path / "runs" / "2")
        (lost,) = set(before) - set(made.pids)
        assert lost in (before[1:2] if workers == 1 else before[:2]), "the one on which it is, where one trains it"
        wait_for_end_of(on_each[lost])
        assert all(is_at_work(pid) for node in made.pids for pid in on_each[node])
        with pytest.raises(ProcessLookupError):
            made.lose(random.Random(1), tmp_path / "runs" / "1")
        made.bring_back(trains_again=False)
        assert len(made.pids) == 2
        now = time.monotonic()
        monkeypatch.setattr("time.monotonic", lambda: now + away)
        made.bring_back(trains_again=workers != 3)  # those left do not suffice, so it is waited for in vain
        monkeypatch.undo()
        assert len(made.pids) == 3
    finally:
        made.close()
    wait_for_end_of([pid for pids in on_each.values() for pid in pids])


def wait_for_end_of(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(map(is_at_work, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_at_work(pid: int) -> bool:
    """Whether a process is there, and is not about to be forgotten by who has to."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("fields", "count", "says"),
    [
        ({"workers": 2}, 1, "--nodes 1: one is lost while others are left, so give 2 or more"),
        ({"workers": 0}, 2, "cluster 'made' trains in the command's own process"),
        ({"workers": 2, "gpus_per_worker": 1}, 2, "cluster 'made' has GPUs"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(fields: dict[str, int], count: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_nodes(Cluster.model_validate({"name": "made", **fields}), count)
    check_nodes(Cluster(name="made", workers=(1, 4)), 2)


def test_a_node_that_does_not_start_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no Ray here\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (tmp_path / "logs").mkdir()
    mode = os.environ.get("RAY_AUTH_TOKEN")
    with (
        pytest.raises(SetupError, match="did not start on this machine: no Ray here; see .*node-000.log"),
        local_nodes(Cluster(name="made", workers=2), 2, tmp_path),
    ):
        raise AssertionError
    assert os.environ.get("RAY_AUTH_TOKEN") == mode


def test_nodes_are_told_nothing_of_a_cluster_that_is_not_for_their_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Cluster(
        name="made", workers=2, cpus_per_worker=0.5, precision="bf16", on_hang="restart", data_root="data",
        study="postgresql://me:secret@host/studies", storage="elsewhere", launcher="up.yaml",
    )  # fmt: skip
    monkeypatch.setattr(nodes, "LocalNodes", lambda *_: SimpleNamespace(address="127.0.0.1:1", close=lambda: None))
    with local_nodes(given, 2, tmp_path):
        found = json.loads((tmp_path / nodes.CLUSTER_FILE).read_text())
    assert found == {
        "workers": 2, "cpus_per_worker": 0.5, "precision": "bf16", "on_hang": "restart", "data_root": "data",
        "address": "127.0.0.1:1",
    }  # fmt: skip


def test_a_node_that_would_kill_others_with_it_does_not_start() -> None:
    command = [sys.executable, "-m", "raykd.runners.ray.node", "--head"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, "process group" in done.stderr) == (1, True)


def test_a_node_ends_with_the_process_that_started_it() -> None:
    code = "import subprocess, sys; from raykd.runners.ray.node import _end_with_input\n"
    code += "print(subprocess.Popen(['sleep', '60']).pid, flush=True); _end_with_input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.stdin.close()
    assert process.wait(20) == -signal.SIGKILL
    process.stdout.close()
    wait_for_end_of([child])
