"""A Ray of several nodes on this machine, started for a proof, one of which can be taken away and brought back.

Its head has no room for workers: drivers and Ray's records are there, and it is not what is lost. Each other node has
room for its part of the workers. All listen on the loopback device alone, ask for a token that nobody else is told, and
end with this process, however that ends.
"""

import json
import math
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from raykd.cluster.config import Cluster
from raykd.config.runtime import Runtime
from raykd.distributed.processes import finds_workers, has_open, kill_with_all_below, workers_below
from raykd.errors import SetupError, UsageError
from raykd.files import held, sweep_folders, write_text

CLUSTER_FILE = "nodes.yaml"
_AWAY_SECONDS = (5.0, 20.0)
_LONGEST_AWAY_SECONDS = 180.0  # of a node without which the others go on
_START_SECONDS = 120.0
_POLL_SECONDS = 0.1
_STARTED = b"Ray runtime started"
_OBJECT_STORE_BYTES = 100 * 2**20  # the workers exchange no objects
_TEMPORARY = "/tmp"  # names of sockets have 107 bytes at most, too few for many a TMPDIR
_SCRATCH = "raykd-nodes-"
_OF_NODES = {
    *Runtime.model_fields, "workers", "cpus_per_worker", "data_root", "max_failures", "hang_seconds", "on_hang",
}  # fmt: skip
"""Fields of the cluster that hold for its workers here too; the address of a study may hold a password."""
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # elsewhere Ray takes 127.0.0.1 for another name of the outer address
    "RAY_memory_monitor_refresh_ms": "0",  # as of a run's own Ray on this machine
    "RAY_worker_niceness": "0",
    "RAY_worker_register_timeout_seconds": "300",  # several nodes start processes at once, on one machine
}


@dataclass
class _Node:
    """A node, the process that keeps its others together, and what that says."""

    number: int
    process: "subprocess.Popen[bytes]"
    log: Path


class LocalNodes:
    """A head and further nodes, each with room for as many workers as the others."""

    def __init__(self, cluster: Cluster, count: int, scratch: Path, logs: Path) -> None:
        """Start the head and ``count`` nodes for the workers of ``cluster``.

        Raises:
            SetupError: if one does not start.
        """
        low, high = cluster.worker_range
        places = math.ceil(high / count)
        self._cpus = math.ceil(places * cluster.cpus_per_worker)
        self._scratch, self._logs = scratch, logs
        self._others_suffice = (count - 1) * places >= low
        self._started = 0
        self._one_each = high == 1
        self._back_at: float | None = None  # by the clock, at the latest, if a node is away
        self._port = _free_port()
        self._nodes: list[_Node] = []
        try:
            self._head = self._start(
                "--head", f"--port={self._port}", f"--ray-client-server-port={_free_port()}",
                "--include-dashboard=false", "--num-cpus=0",
            )  # fmt: skip
            self._wait_for(self._head)
            for _ in range(count):
                self._nodes.append(self._add())
            self.wait()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Return what a cluster file says of it."""
        return f"127.0.0.1:{self._port}"

    @property
    def pids(self) -> list[int]:
        """Return the processes below which workers are."""
        return [node.process.pid for node in self._nodes]

    def lose(self, drawn: random.Random, run: Path) -> None:
        """Kill everything on a node that trains a run, at once.

        Raises:
            ProcessLookupError: if there is no such node, or one is away already.
        """
        training = {node.number: workers_below(node.process.pid) for node in self._nodes}
        if self._one_each:  # several runs are trained side by side
            training = {number: [pid for pid in pids if has_open(pid, run)] for number, pids in training.items()}
        found = [node for node in self._nodes if training[node.number]]
        if self._back_at is not None or not found:
            raise ProcessLookupError("no node that trains it")
        node = drawn.choice(found)
        self._nodes.remove(node)
        _end(node)
        away = _LONGEST_AWAY_SECONDS if self._others_suffice else drawn.uniform(*_AWAY_SECONDS)
        self._back_at = time.monotonic() + away

    def bring_back(self, trains_again: bool) -> None:
        """Start another node in the place of one that is away, if it is time.

        That is once what was on it trains again on the others, or, if these do not suffice, after a while.
        """
        if self._back_at is not None and (trains_again or time.monotonic() > self._back_at):
            self._back_at = None
            self._nodes.append(self._add())

    def wait(self) -> None:
        """Wait until all nodes are there.

        Raises:
            SetupError: if one does not come.
        """
        for node in self._nodes:
            self._wait_for(node)

    def close(self) -> None:
        """End them all."""
        for node in self._nodes:
            _end(node)
        if self._started:
            _end(self._head)

    def _add(self) -> _Node:
        return self._start(f"--address={self.address}", f"--num-cpus={self._cpus}")

    def _start(self, *options: str) -> _Node:
        number = self._started
        command = [
            sys.executable, "-m", "raykd.runners.ray.node", *options, f"--temp-dir={self._scratch / str(number)}",
            f"--dashboard-agent-listen-port={_free_port()}", f"--object-store-memory={_OBJECT_STORE_BYTES}",
        ]  # fmt: skip
        log = self._logs / f"node-{number:03d}.log"
        with log.open("wb") as file:
            # It ends with the pipe, which this process alone holds, and in its own session is no receiver of a Ctrl-C.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._started += 1
        return _Node(number, process, log)

    def _wait_for(self, node: _Node) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while _STARTED not in node.log.read_bytes():
            if node.process.poll() is not None or time.monotonic() > deadline:
                lines = node.log.read_text(errors="replace").split("\n")
                said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
                raise SetupError(f"a node of Ray did not start on this machine: {said}; see {node.log}")
            time.sleep(_POLL_SECONDS)


def check_nodes(cluster: Cluster, count: int) -> None:
    """Refuse what cannot be shared out to nodes of this machine.

    Raises:
        UsageError: saying what to do.
    """
    if count < 2:
        raise UsageError(f"--nodes {count}: one is lost while others are left, so give 2 or more")
    if cluster.worker_range[1] == 0:
        raise UsageError(f"cluster {cluster.name!r} trains in the command's own process: give it workers for --nodes")
    if cluster.gpus_per_worker:
        raise UsageError(
            f"cluster {cluster.name!r} has GPUs, and each of several nodes on this machine would count them all: "
            "set gpus_per_worker to 0, or leave out --nodes"
        )
    if not finds_workers():
        raise UsageError("this system does not tell who started a process, so no node can be ended: leave out --nodes")


@contextmanager
def local_nodes(cluster: Cluster, count: int, folder: Path) -> Iterator[LocalNodes]:
    """Within: a Ray of ``count`` nodes, its cluster file in ``folder``, and a token that processes started here have.

    Raises:
        SetupError: if it does not start.
    """
    environment = {**_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in environment}
    sweep_folders(Path(_TEMPORARY), _SCRATCH)
    os.environ.update(environment)
    try:
        with ExitStack() as started:
            scratch = TemporaryDirectory(prefix=_SCRATCH, dir=_TEMPORARY, ignore_cleanup_errors=True)
            folder_of_ray = Path(started.enter_context(scratch))
            started.enter_context(held(folder_of_ray))
            nodes = started.enter_context(closing(LocalNodes(cluster, count, folder_of_ray, folder / "logs")))
            fields = cluster.model_dump(exclude_defaults=True, include=_OF_NODES)
            write_text(folder / CLUSTER_FILE, json.dumps({**fields, "address": nodes.address}))
            yield nodes
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end(node: _Node) -> None:
    kill_with_all_below(node.process.pid)
    assert node.process.stdin is not None
    node.process.stdin.close()
    node.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
