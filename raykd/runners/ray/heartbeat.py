"""Signs of life of workers: each tells the driver every few seconds where it is, and the driver names who does not.

A worker that is stopped leaves the others waiting in a collective, all of them silent for ten minutes. So a thread of
each, which no collective holds up, writes its step into Ray's own table, and the driver compares.
"""

import json
import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import ray
import torch.distributed as dist
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.cluster.config import Cluster
from raykd.distributed.progress import PROGRESS
from raykd.runners.ray.internals import read_shared, remove_shared, write_shared
from raykd.runners.ray.process import examine, start_time

logger = logging.getLogger(__name__)

_LONGEST_BEAT = 5.0
_BEATS = 4  # within the silence after which a worker is named
_STOP_SECONDS = 10.0  # of silence, after which a stop waits for a worker no longer
_REMIND_SECONDS = 60.0
_ANSWER_SECONDS = 10.0


def beat_seconds(cluster: Cluster) -> float:
    """Return how often a worker gives a sign of life."""
    return min(_LONGEST_BEAT, cluster.hang_seconds / _BEATS)


class Heartbeat:
    """The thread of a worker that gives the signs of life, while it is at a run."""

    def __init__(self, job: str, run_id: str, seconds: float) -> None:
        """Belong to a job of the driver's; ``seconds`` are between two signs."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        context = ray.get_runtime_context()
        # One of its own: trials of equal values are at the same run, of which one waits for the other.
        self._key = f"{job}/{run_id}/{rank}/{context.get_worker_id()}"
        self._who = {
            "run": run_id,
            "rank": rank,
            "node": ray.util.get_node_ip_address(),
            "node_id": context.get_node_id(),
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
        }
        self._seconds, self._beats = seconds, 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="raykd-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and leave no sign: silence means nothing from here on."""
        self._ending.set()
        self._thread.join()
        with suppress(Exception):  # Ray's head is gone, and what it kept
            remove_shared(self._key)

    def _beat(self) -> None:
        while True:
            self._beats += 1
            place = {"step": PROGRESS.step, "waiting": PROGRESS.seconds_waiting(), "straggler": PROGRESS.straggler}
            with suppress(Exception):  # Ray's head does not answer; a training does not end of that
                write_shared(self._key, json.dumps({**self._who, **place, "beat": self._beats}))
            if self._ending.wait(self._seconds):
                return


@dataclass(frozen=True)
class Worker:
    """A worker as its last sign of life describes it."""

    key: str
    run: str
    rank: int
    node: str
    node_id: str
    pid: int
    started: str | None
    step: int
    waiting: float | None
    straggler: str | None
    beat: int

    def __str__(self) -> str:
        """Name it as a user can find it."""
        return f"worker {self.rank} (node {self.node}, process {self.pid})"


@dataclass(frozen=True)
class HungWorker:
    """A worker that is given up, and a line that says why."""

    worker: Worker
    line: str


class WorkerWatch:
    """Names the workers of a job that give no sign of life, and those for which the others wait."""

    def __init__(self, job: str, cluster: Cluster) -> None:
        """Watch a job; nobody is looked at yet."""
        self._job, self._cluster = job, cluster
        self._every = beat_seconds(cluster)
        self._looked_at = time.monotonic()
        self._seen: dict[str, tuple[Worker, float]] = {}
        self._told: dict[tuple[str, str], float] = {}

    def look(self, stopping: bool) -> list[HungWorker]:
        """Log what is wrong; return the workers that are given up.

        A worker is given up if it is silent and the cluster does not say to wait for it, or a stop was asked for.
        """
        now = time.monotonic()
        if now - self._looked_at < self._every:
            return []
        asleep = now - self._looked_at > self._cluster.hang_seconds / 2  # this process itself, or its machine
        try:
            workers = [Worker(key, **json.loads(text)) for key, text in read_shared(f"{self._job}/").items()]
        except Exception:  # Ray's head does not answer, which says nothing of the workers
            asleep, workers = True, [worker for worker, _ in self._seen.values()]
        before = self._seen
        self._seen = {}
        for worker in workers:
            known = before.get(worker.key)
            is_new = asleep or known is None or (known[0].beat, known[0].pid) != (worker.beat, worker.pid)
            self._seen[worker.key] = (worker, now if is_new or known is None else known[1])
        patience = min(self._cluster.hang_seconds, _STOP_SECONDS) if stopping else self._cluster.hang_seconds
        silent = [(worker, now - since) for worker, since in self._seen.values() if now - since >= patience]
        if not silent:
            self._tell_of_laggards(now)
        hung = [lost for worker, seconds in silent if (lost := self._judge(worker, seconds, now, stopping))]
        self._looked_at = time.monotonic()
        return hung

    def end(self, hung: list[HungWorker]) -> None:
        """Kill the processes of workers that were given up."""
        for each in hung:
            logger.warning("%s: its process is %s", each.worker, _ask_node(each.worker, end=True))
            self._forget(each.worker)

    def close(self) -> None:
        """Remove what dead workers have left."""
        with suppress(Exception):
            remove_shared(f"{self._job}/")

    def _judge(self, worker: Worker, seconds: float, now: float, stopping: bool) -> HungWorker | None:
        """Say that a worker is silent, and why if its node knows; return it if it is given up."""
        waits = self._cluster.on_hang == "wait" and not stopping
        if waits and not self._is_due(worker.key, "silent", now):
            return None
        state = _ask_node(worker, end=False)
        if state == "gone":  # Ray knows, and starts another
            self._forget(worker)
            return None
        line = f"{worker} has not answered for {seconds:.0f} s: its process is {state}; last step {worker.step}"
        logger.warning("%s: %s", worker.run, line)
        return None if waits else HungWorker(worker, line)

    def _tell_of_laggards(self, now: float) -> None:
        """Name the workers for which all others of their run wait, or that keep them waiting in each step."""
        patience = self._cluster.hang_seconds
        runs: dict[str, list[Worker]] = {}
        for worker, _ in self._seen.values():
            runs.setdefault(worker.run, []).append(worker)
        for run, workers in runs.items():
            waiting = [worker for worker in workers if (worker.waiting or 0.0) >= patience]
            at_work = [worker for worker in workers if worker not in waiting]
            if waiting and self._is_due(run, "waiting", now):
                longest = max(worker.waiting or 0.0 for worker in waiting)
                who = " and ".join(map(str, at_work)) if at_work else "each other (is the network down?)"
                logger.warning(
                    "%s: %d workers have waited %.0f s for %s; last step %d",
                    run, len(waiting), longest, who, min(worker.step for worker in workers),
                )  # fmt: skip
            stragglers = {worker.straggler for worker in workers if worker.straggler}
            for text in sorted(stragglers)[:1]:
                if (run, "straggler") not in self._told:
                    self._told[run, "straggler"] = now
                    logger.warning("%s: %s", run, text)

    def _is_due(self, about: str, what: str, now: float) -> bool:
        """Tell whether it is time to say something, for the first time or again."""
        if now - self._told.get((about, what), -_REMIND_SECONDS) < _REMIND_SECONDS:
            return False
        self._told[about, what] = now
        return True

    def _forget(self, worker: Worker) -> None:
        self._seen.pop(worker.key, None)
        self._told.pop((worker.key, "silent"), None)
        with suppress(Exception):
            remove_shared(worker.key)


def _ask_node(worker: Worker, end: bool) -> str:
    """Have the worker's node say how its process is, or end it; a process is gone with its node."""
    there = NodeAffinitySchedulingStrategy(worker.node_id, soft=False)
    task = ray.remote(examine).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        if worker.node_id not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
            return "gone"
        asked = task.remote(worker.pid, worker.started, end)
        if ray.wait([asked], timeout=_ANSWER_SECONDS)[0]:
            return str(ray.get(asked))
        ray.cancel(asked, force=True)
    except Exception as error:  # the node is going just now, or Ray's head
        logger.debug("%s", error)
    return "on a node that does not answer"
