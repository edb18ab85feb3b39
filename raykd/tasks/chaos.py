"""Whether a command ends with the same weights whatever happens to it: once undisturbed, then under faults.

A command that trains is run in a store of its own, and again in another one, where it is killed, stopped, robbed of its
disk and so on, inside its training and by a schedule that a seed decides, and started again until it is finished. It
may train on a Ray of several nodes, started here for it, some of which are lost. The certificate tells each fault, what
it cost, and whether both stores hold the same weights bit for bit.

<folder>/reference  disturbed/  the two stores, or of two in an object store what it holds of their weights
<folder>/logs/                  what each start of the command said, and each node
<folder>/nodes.yaml             the cluster file of the nodes, if there are some
<folder>/chaos.json             the certificate
"""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from raykd.cluster.config import Cluster
from raykd.distributed.processes import finds_workers, wait_for_end, workers_below
from raykd.errors import RunFailed, UsageError
from raykd.files import make_folder, write_json
from raykd.store.mirror import Mirror
from raykd.store.remote import Remote, is_remote, join
from raykd.store.run_directory import METRICS, RunDirectory, runs_in
from raykd.store.workspace import local_folder
from raykd.tasks.certificate import Certificate, Event, compare_weights
from raykd.tasks.faults import (
    EXIT_CODES,
    SAT_OUT,
    WORKER_EXIT_CODES,
    Fault,
    Kind,
    checkpoints_of,
    damage,
    inject,
    left_out,
    plan_faults,
    possible_kinds,
)
from raykd.tasks.nodes import CLUSTER_FILE, LocalNodes, local_nodes
from raykd.tasks.outage import Proxy, behind_proxy

CERTIFICATE = "chaos.json"
_REFERENCE, _DISTURBED = "reference", "disturbed"
_POLL_SECONDS = 0.02
_LONGEST = 20  # times the undisturbed command, at least _LEAST_SECONDS: then a start of the command counts as hung
_LEAST_SECONDS = 300.0
_TRACEBACK = b"Traceback (most recent call last)"


class Running(Protocol):
    """A command that was started."""

    @property
    def pid(self) -> int:
        """Return its process."""

    def poll(self) -> int | None:
        """Return its exit code, minus the signal that killed it; None while it runs."""


Launch = Callable[[Sequence[str], Path], Running]
"""Starts ``raykd`` with arguments, and writes all that it says into a file."""


def certify(
    command: Sequence[str],
    folder: Path,
    *,
    faults: int,
    seed: int,
    workers: bool,
    store: str | None = None,
    in_order: bool = True,
    kinds: Sequence[Kind] | None = None,
    launch: Launch | None = None,
    nodes: tuple[Cluster, int] | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> Certificate:
    """Run ``raykd COMMAND --out STORE`` undisturbed, then under faults; write and return the certificate.

    Args:
        command: a verb that trains, its arguments and options, without ``--out``, and with ``nodes`` without cluster.
        folder: where logs, the certificate, and without ``store`` both stores go; it is made, or empty.
        faults: how many.
        seed: of kinds, moments and what else is left to chance.
        workers: whether the command trains by Ray's workers on this machine.
        store: address in an object store below which both stores go.
        in_order: whether what the command trains does not depend on which of its runs ends first.
        kinds: of faults; default: all that are possible here.
        launch: how the command is started; default: as a process of its own.
        nodes: how many nodes of Ray are started on this machine, for the workers of which cluster; see ``check_nodes``.
        show: is given a line as it goes on.

    Raises:
        UsageError: if the folder, or what there is of the store here or there, is not empty.
        SetupError: if the store does not answer, or nodes do not start.
        RunFailed: if the command fails without any fault.
    """
    folder = folder.absolute()
    place = store or str(folder)
    _check_empty(folder, store)
    make_folder(folder / "logs")
    with behind_proxy(place) as proxy, local_nodes(*nodes, folder) if nodes else nullcontext() as started:
        words = [*command, *(["--cluster", str(folder / CLUSTER_FILE)] if nodes else [])]
        proof = _Proof(words, folder, place, seed, launch or start_process, show, proxy, started)
        return proof.certify(kinds or possible_kinds(place, started is not None), faults, workers, in_order)


def _check_empty(folder: Path, store: str | None) -> None:
    """Refuse what a run before has left: in the folder, in the store, and in what this machine holds of it."""
    taken = [str(folder)] if folder.is_dir() and any(folder.iterdir()) else []
    if store is not None:
        remote = Remote(store)
        for name in (_REFERENCE, _DISTURBED):
            address = remote.display_name(name)
            taken += [address] if remote.entries(name) else []
            taken += [f"{here}, a copy of {address},"] if (here := local_folder(address)).is_dir() else []
    if taken:
        raise UsageError(
            f"{taken[0]} is not empty; give another --out, since what is finished there is not trained again"
        )


class _Process:
    """The command as a process of its own, in a session of its own, with a thread that keeps what it says."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        # Through a pipe: a limit to the files of the process is none to what it says.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raykd", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._keep, args=(log,), daemon=True).start()

    def _keep(self, log: Path) -> None:
        assert self._process.stdout is not None
        with log.open("wb", buffering=0) as file:
            shutil.copyfileobj(self._process.stdout, file, 1)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()


def start_process(arguments: Sequence[str], log: Path) -> Running:
    """Start ``raykd`` as a process of its own."""
    return _Process(arguments, log)


@dataclass(frozen=True)
class _Standing:
    """How far a store is: reports of all its runs, and the run that has trained since a moment, if one has."""

    reports: int
    run: RunDirectory | None
    opened: float = 0.0
    step: int = 0
    is_at_its_end: bool = False
    resumed_from: int = 0
    updated: float = 0.0


def _look(store: Path, since: float) -> _Standing:
    reports, best = 0, _Standing(0, None)
    for run in runs_in(store):
        with suppress(OSError):
            reports += (run.path / METRICS).read_bytes().count(b"\n")
        status, opened = run.status(), run.opened_at or 0.0
        updated = status.get("updated", 0.0)
        # A run that is just being opened has the status of before.
        if status.get("state") == "running" and updated >= opened > since and updated >= best.updated:
            step = status.get("step", 0)
            at_its_end = step >= status.get("steps", math.inf)
            best = _Standing(0, run, opened, step, at_its_end, status.get("resumed_from", 0), updated)
    return replace(best, reports=reports)


class _Proof:
    def __init__(
        self,
        command: list[str],
        folder: Path,
        place: str,
        seed: int,
        launch: Launch,
        show: Callable[[str], None],
        proxy: Proxy | None,
        nodes: LocalNodes | None,
    ) -> None:
        self._command, self._folder, self._place, self._seed = command, folder, place, seed
        self._launch, self._show, self._proxy, self._nodes = launch, show, proxy, nodes
        self._drawn = random.Random(f"{seed} in the act")
        self._store = self._runs(_DISTURBED)
        self._events: list[Event] = []
        self._wrong: list[str] = []
        self._pending: list[Fault] = []
        self._workers: list[int] = []
        self._opened: set[tuple[str, float]] = set()
        self._sizes: dict[str, set[int]] = {}
        self._interval, self._limit = 0.0, _LEAST_SECONDS

    def _runs(self, name: str) -> Path:
        """Return the folder of this machine in which the runs of one of both stores are."""
        return local_folder(join(self._place, name))

    def certify(self, kinds: Sequence[Kind], faults: int, workers: bool, in_order: bool) -> Certificate:
        """See ``raykd.tasks.chaos.certify``."""
        undisturbed = self._run_reference()
        reports = _look(self._runs(_REFERENCE), 0).reports
        self._interval = undisturbed["training"] / max(1, reports)
        self._limit = max(_LEAST_SECONDS, _LONGEST * undisturbed["all"])
        self._pending = plan_faults(kinds, faults, self._seed, reports, workers and finds_workers())
        started, starts = time.monotonic(), 0
        while True:
            starts += 1
            code = self._run_once(self._folder / "logs" / f"disturbed-{starts:03d}.log")
            if code == 0 or self._wrong:
                break
        if self._pending:
            self._wrong.append(f"the command was finished before {len(self._pending)} of {faults} faults came")
        certificate = Certificate(
            self._command, self._seed, self._events, left_out(workers, self._place, self._nodes is not None), starts,
            {"undisturbed": undisturbed["all"], "disturbed": time.monotonic() - started},
            compare_weights(self._stored(_REFERENCE), self._stored(_DISTURBED), self._resized()),
            [*self._wrong, *self._tracebacks()], in_order,
        )  # fmt: skip
        write_json(self._folder / CERTIFICATE, certificate.to_dict())
        return certificate

    def _stored(self, name: str) -> Path:
        """Return the folder of one of both stores; of an object store a copy of what it holds now."""
        runs = self._runs(name)
        if is_remote(self._place):
            mirror = Mirror(Remote(join(self._place, name)), self._folder / name)
            for run in runs_in(runs):
                mirror.pull(run.name, checkpoints="all")  # a pool of images comes along with these alone
            return mirror.local
        return runs

    def _resized(self) -> set[str]:
        """Name the runs that were trained by another number of workers than undisturbed, for a time."""
        for run in runs_in(self._runs(_REFERENCE)):
            self._note_size(run)
        return {name for name, sizes in self._sizes.items() if len(sizes) > 1}

    def _note_size(self, run: RunDirectory) -> int | None:
        """Note by how many workers a run is trained, and return it."""
        workers: int | None = run.environment().get("workers")
        if workers is not None:
            self._sizes.setdefault(run.name, set()).add(workers)
        return workers

    def _tracebacks(self) -> list[str]:
        """Name the logs of the command in which there is a traceback; what Ray says of a lost node is not its own."""
        logs = [log for name in (_DISTURBED, _REFERENCE) for log in sorted((self._folder / "logs").glob(f"{name}*"))]
        errors = [run.error_log for name in (_REFERENCE, _DISTURBED) for run in runs_in(self._runs(name))]
        return [
            f"a traceback in {str(log).removeprefix(f'{self._folder}{os.sep}')}"
            for log in [*logs, *errors]
            if log.is_file() and _TRACEBACK in log.read_bytes()
        ]

    def _run_reference(self) -> dict[str, float]:
        """Run the command undisturbed; return the seconds that it took, and those since it first trained."""
        log = self._folder / "logs" / "reference.log"
        started, trains = time.monotonic(), None
        process = self._start(_REFERENCE, log)
        try:
            while (code := process.poll()) is None:
                if trains is None and _look(self._runs(_REFERENCE), 0).run is not None:
                    trains = time.monotonic()
                time.sleep(_POLL_SECONDS)
        finally:
            _end(process)
        if code != 0:
            raise RunFailed(f"the undisturbed command ended with {code}: {_last_line(log)}")
        seconds = time.monotonic() - started
        self._show(f"undisturbed: {seconds:.1f} s")
        return {"all": seconds, "training": time.monotonic() - (trains or started)}

    def _start(self, store: str, log: Path) -> Running:
        return self._launch([*self._command, "--out", join(self._place, store)], log)

    def _run_once(self, log: Path) -> int:
        """Start the command, do to it what is due, and return its exit code."""
        if self._nodes is not None:
            self._nodes.bring_back(trains_again=True)
            self._nodes.wait()
        began = since = time.time()
        fatal: Event | None = None  # the fault that is to end this start
        due: float | None = None
        process = self._start(_DISTURBED, log)
        try:
            while (code := process.poll()) is None:
                time.sleep(_POLL_SECONDS)
                if time.time() - began > self._limit:
                    self._wrong.append(f"the command was still at work after {self._limit:.0f} s; see {log}")
                    return 1
                standing = _look(self._store, since)
                self._note_recovery(standing)
                if standing.run is None or fatal is not None or not self._is_ready(standing):
                    continue
                due = due or time.monotonic() + self._pending[0].moment * self._interval
                if time.monotonic() < due:
                    continue
                event = self._inject(process.pid, standing)
                due = None
                if event is not None and event.kind not in SAT_OUT:
                    since = event.at
                    fatal = event if event.target == "driver" else None
        finally:
            _end(process)
        self._judge_end(code, fatal, log)
        return code

    def _is_ready(self, standing: _Standing) -> bool:
        """Tell whether the next fault can come: a damaged checkpoint needs one before it.

        A run that has made its last step is left alone: it would end all the same, with nothing to recover.
        """
        if not self._pending or standing.reports < self._pending[0].report or standing.is_at_its_end:
            return False
        assert standing.run is not None
        return self._pending[0].kind != "damage" or len(checkpoints_of(standing.run)) > 1

    def _inject(self, pid: int, standing: _Standing) -> Event | None:
        """Do the next fault; None if what it is done to is not there any more, or not yet."""
        fault, run = self._pending[0], standing.run
        assert run is not None
        rows = run.rows()
        pace = rows[-1].get("steps_per_second", 0.0) if rows else 0.0
        at = time.time()
        step = standing.step + int(
            min(pace * (at - standing.updated), run.experiment().recipe.schedule.report_every - 1)
        )
        roots = [pid, *(self._nodes.pids if self._nodes is not None else [])]  # workers are below these
        self._workers = workers_below(*roots)
        try:
            if fault.kind == "loss" and self._nodes is not None:
                self._nodes.lose(self._drawn, run.path)
            else:
                inject(fault, pid, self._drawn, self._proxy, roots)
        except ProcessLookupError:
            return None
        del self._pending[0]
        event = Event(fault.kind, fault.target, run.name, step, at=at)
        self._events.append(event)
        if fault.kind == "stop":
            event.seconds_to_recover = time.time() - at
        self._show(f"{fault.kind} of the {fault.target} at about step {step} of {run.name}")
        return event

    def _note_recovery(self, standing: _Standing) -> None:
        """See whether what was disturbed goes on, and by how many workers; a node that is away may come back then."""
        run, answered_at = standing.run, self._proxy.answered_at if self._proxy is not None else 0.0
        if run is not None and (run.name, standing.opened) not in self._opened:
            self._opened.add((run.name, standing.opened))
            workers = self._note_size(run)
            for event in self._events:
                if event.seconds_to_recover is None and event.run == run.name and standing.opened > event.at:
                    event.seconds_to_recover = standing.opened - event.at
                    event.resumed_from, event.workers = standing.resumed_from, workers
                    event.steps_lost = max(0, event.at_step - standing.resumed_from)
        for event in self._events:
            if event.kind == "outage" and event.seconds_to_recover is None and answered_at > event.at:
                event.seconds_to_recover = answered_at - event.at
        if self._nodes is not None and self._events:
            self._nodes.bring_back(trains_again=self._events[-1].seconds_to_recover is not None)

    def _judge_end(self, code: int, fatal: Event | None, log: Path) -> None:
        """Compare the end of a start of the command with what was done to it, and damage what is to be damaged."""
        last = self._events[-1] if self._events else None
        if fatal is not None:
            fatal.exit_code = code
            allowed: Sequence[int] = (0, *EXIT_CODES[fatal.kind])
        elif last is not None and last.target in ("worker", "node") and last.exit_code is None:
            allowed = WORKER_EXIT_CODES
            last.exit_code = code or None
        else:
            allowed = (0,)
        if code not in allowed:
            self._wrong.append(f"exit code {code} where {allowed[-1]} is right: {_last_line(log)}")
        elif fatal is not None and fatal.kind == "damage" and code:
            wait_for_end(self._workers)
            fatal.file = damage(RunDirectory(self._store / fatal.run), self._drawn)


def _end(process: Running) -> None:
    """Kill a command that was left early, with what it has started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
