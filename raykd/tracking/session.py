"""Follow runs by the files that they write, and tell trackers of them, in threads that no run waits for.

The process that starts the runs follows them, wherever they are trained: it alone needs a tracker's package, its
variables and its network, so two workers are one run, and what a tracker does takes no time from a step. What a tracker
has is noted beside the run. A tracker that did not answer gets what it lacks later, by this command or by the next.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import raykd
from raykd.errors import CorruptError, SetupError, masked
from raykd.files import parse_content, parse_json, read_json, read_text, write_json
from raykd.recipe.experiment import Experiment
from raykd.store.rows import parse_rows
from raykd.store.run_directory import ENVIRONMENT, METRICS, SAMPLES, STATUS
from raykd.store.status import Types, check_types, parse_status
from raykd.store.workspace import Workspace
from raykd.tracking.tracker import (
    End,
    Report,
    RunFacts,
    TrackedRun,
    TrackerName,
    describe_failure,
    flatten,
    require_trackers,
)

logger = logging.getLogger(__name__)

Follow = Callable[[Iterable[Experiment]], None]
_KINDS = {"mlflow": ("raykd.tracking.mlflow_run", "MlflowRun"), "wandb": ("raykd.tracking.wandb_run", "WandbRun")}
_ENDS: Mapping[str, End] = {"finished": "finished", "failed": "failed"}
"""Of a run's states those that are told at once: an interrupted one may go on within the same command."""
_LOOK_SECONDS, _REMOTE_LOOK_SECONDS = 1.0, 5.0  # between two looks at the runs
_SILENCE_SECONDS = 30.0  # without a try, after one that failed
_PAGE_SECONDS = 60.0  # that a finished run is given to get its page
_CLOSING_SECONDS = 20.0  # that a command waits for its trackers in the end
_AT_ONCE = 50  # reports, each of which may have a picture
_NOTE_TYPES: Types = {"id": str, "step": int, "end": str}


@contextmanager
def tracked(
    names: Sequence[TrackerName], runs: Iterable[Experiment], workspace: Workspace, *, elsewhere: bool
) -> Iterator[Follow]:
    """Tell trackers of ``runs`` while the body works at them; yield what adds further runs.

    Args:
        names: the trackers; none for nothing at all.
        runs: those that may be trained; what is finished already is left alone, unless a tracker lacks its end.
        workspace: where the runs are.
        elsewhere: whether other machines train them, so that a remote store has their files first.

    Raises:
        SetupError: before the body, if a tracker's package or setting is missing; later ones are warnings.
    """
    if not names or int(os.environ.get("RANK", "0")):  # under torchrun one worker speaks
        yield lambda more: None
        return
    require_trackers(names)
    files = _Files(workspace, elsewhere)
    trackers = [_Tracker(name, files) for name in dict.fromkeys(names)]

    def follow(more: Iterable[Experiment]) -> None:
        for experiment in more:
            for tracker in trackers:
                tracker.add(experiment)

    follow(runs)
    for tracker in trackers:
        tracker.start()
    try:
        yield follow
    finally:
        deadline = time.monotonic() + _CLOSING_SECONDS
        for tracker in trackers:
            tracker.end()
        for tracker in trackers:
            tracker.join(deadline)


class _Files:
    """The files of a store's runs: of this machine, or as a remote store has them where others write them."""

    def __init__(self, workspace: Workspace, elsewhere: bool) -> None:
        self._workspace = workspace
        mirror = workspace.mirror
        self._remote = mirror.remote.tried_once() if elsewhere and mirror is not None else None

    @property
    def look_seconds(self) -> float:
        return _LOOK_SECONDS if self._remote is None else _REMOTE_LOOK_SECONDS

    def folder(self, run: str) -> Path:
        return self._workspace.run(run).path

    def read(self, run: str, name: str) -> str:
        """Return the content of a text file; "" where there is none."""
        if self._remote is not None:
            return (self._remote.try_read(f"{run}/{name}") or b"").decode(errors="replace")
        with suppress(OSError, CorruptError):
            return read_text(self.folder(run) / name)
        return ""

    def sheet(self, run: str, step: int) -> bytes | None:
        """Return the picture of a step, a PNG, or None."""
        name = f"{SAMPLES}/step_{step:07d}.png"
        if self._remote is not None:
            return self._remote.try_read(f"{run}/{name}")
        with suppress(OSError):
            return (self.folder(run) / name).read_bytes()
        return None

    def is_at_work(self, run: str) -> bool:
        """Tell whether a process here has the run in its hands, of which this one may know nothing."""
        return self._remote is None and self._workspace.run(run).is_held

    def page(self, run: str) -> Path | None:
        """Return the run's report, if it is of its end."""
        directory = self._workspace.run(run)
        with suppress(OSError):
            if directory.page.stat().st_mtime >= (directory.path / STATUS).stat().st_mtime:
                return directory.page
        return None

    def read_note(self, run: str, tracker: str) -> dict[str, Any] | None:
        """Return what the tracker has of the run, or None if it has never been told of it."""
        name, advice = _note_name(tracker), "the tracker gets a new run"
        path = self.folder(run) / name
        try:
            found = read_json(path, advice)
            return dict(parse_content(path, advice, lambda: _check_note(found)))
        except FileNotFoundError:
            content = "" if self._remote is None else self.read(run, name)
        except CorruptError as error:
            logger.warning("%s", error)
            return {}
        with suppress(ValueError, RecursionError):
            return _check_note(parse_json(content))
        return {} if content else None

    def write_note(self, run: str, tracker: str, note: Mapping[str, Any]) -> None:
        """Keep what the tracker has; on the store too, where another machine may go on."""
        path = self.folder(run) / _note_name(tracker)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(note))
        if self._remote is not None and self._workspace.mirror is not None:
            with suppress(SetupError):
                self._workspace.mirror.push_file(path, f"{run}/{path.name}", once=True)


def _check_note(note: dict[str, Any]) -> dict[str, Any]:
    """Return a note; refuse one by which a tracker would be told nothing any more, or told twice.

    Raises:
        ValueError: naming what is wrong with it.
    """
    check_types(_NOTE_TYPES, note)
    if ("id" in note) != ("step" in note):
        raise ValueError("of 'id' and 'step' it has one alone")
    return note


def _parsed(text: str) -> dict[str, Any]:
    """Return the object in a file's content; empty where it is none."""
    with suppress(ValueError, RecursionError):
        return parse_json(text)
    return {}


def _without_secrets(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a status whose reason may leave this machine."""
    return {**status, "reason": masked(str(status["reason"]))} if status.get("reason") else status


def _note_name(tracker: str) -> str:
    return f"tracker_{tracker}.json"


class _Tracker:
    """The thread of a tracker: it looks at the runs, and tells what is new."""

    def __init__(self, name: TrackerName, files: _Files) -> None:
        self._name, self._files = name, files
        self._since = time.time()
        self._runs: dict[str, _Run] = {}
        self._silent_until = 0.0
        self._has_warned = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"raykd-{name}", daemon=True)

    def add(self, experiment: Experiment) -> None:
        if experiment.run_id not in self._runs:
            self._runs[experiment.run_id] = _Run(experiment, self._name, self._files, self._since)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending.set()

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(TimeoutError(f"no answer within {_CLOSING_SECONDS:.0f} s"))

    def _work(self) -> None:
        while not self._ending.wait(self._files.look_seconds):
            if time.monotonic() >= self._silent_until:
                self._look(closing=False)
        self._look(closing=True)

    def _look(self, closing: bool) -> None:
        failed = 0
        for name, run in list(self._runs.items()):
            try:
                run.tell(closing)
            except Exception as error:  # whatever a tracker's package raises, training goes on
                self._warn(error)
                logger.debug("", exc_info=True)
                run.forget()
                self._runs[name] = self._runs.pop(name)  # last, lest one that is always refused keeps others waiting
                self._silent_until = time.monotonic() + _SILENCE_SECONDS
                failed += 1
                if failed > 1:  # the tracker, not a run
                    return

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "tracker %s: %s; training goes on, and what the tracker lacks is sent once it answers, or by the same "
                "command later",
                self._name,
                describe_failure(error),
            )


class _Run:
    """What a tracker has of a run, and lacks."""

    def __init__(self, experiment: Experiment, tracker: TrackerName, files: _Files, since: float) -> None:
        self._experiment, self._tracker, self._files, self._since = experiment, tracker, files, since
        self._name = experiment.run_id
        self._open: TrackedRun | None = None
        self._note: dict[str, Any] | None = None
        self._ended_at: float | None = None

    def forget(self) -> None:
        """Open the run anew before it is told of again: what became of the last try is unknown."""
        self._open = None

    def tell(self, closing: bool) -> None:
        """Tell the tracker what is new; ``closing`` says that the run is not at work any more."""
        if self._note is not None and self._is_over(self._note) and not closing:
            return
        status = parse_status(self._files.read(self._name, STATUS))
        if closing and status.get("state") == "running" and self._files.is_at_work(self._name):
            return  # another command's, which tells of it
        if self._note is None:
            self._note = self._files.read_note(self._name, self._tracker)
        owed = self._note is not None and "end" not in self._note
        if "step" not in status or not (owed or status.get("updated", 0.0) >= self._since):
            return
        how, page = self._end(status, closing), self._files.page(self._name)
        told = (self._note or {}).get("end"), (self._note or {}).get("page", False)
        if how is not None and told == (how, page is not None):
            return
        run = self._opened()
        self._send_reports(run, status["step"])
        if how is not None:
            run.end(how, _without_secrets(status), page)
            self._open = None
            self._write(end=how, page=page is not None)

    def _is_over(self, note: Mapping[str, Any]) -> bool:
        """Tell whether the tracker has all before the command ends, whose last look finds a page that came late."""
        return note.get("end") == "finished" or ("end" in note and bool(note.get("page")))

    def _end(self, status: Mapping[str, Any], closing: bool) -> End | None:
        """Return how the run ended, or None while it may go on or its report is awaited."""
        state = str(status.get("state"))
        if closing:
            return _ENDS.get(state, "stopped")
        if state not in _ENDS:
            self._ended_at = None
            return None
        self._ended_at = self._ended_at or time.monotonic()
        waits = state == "finished" and os.environ.get("RAYKD_REPORT") != "0" and not self._files.page(self._name)
        return None if waits and time.monotonic() - self._ended_at < _PAGE_SECONDS else _ENDS[state]

    def _opened(self) -> TrackedRun:
        if self._open is None:
            module, kind = _KINDS[self._tracker]
            note = self._note or {}
            self._write()  # whatever comes of it, the tracker is owed this run
            opened: TrackedRun = getattr(import_module(module), kind)(
                self._facts(), note.get("id"), note.get("step", 0)
            )
            self._open = opened
            self._write(id=opened.id, step=opened.step)
        return self._open

    def _send_reports(self, run: TrackedRun, saved: int) -> None:
        """Send the rows behind what the tracker has, up to the last checkpoint: a resumed run makes others again."""
        assert self._note is not None, "it was written when the run was opened"
        if saved <= self._note["step"]:  # what is read and parsed between reports takes time from a training in here
            return
        rows = parse_rows(self._files.read(self._name, METRICS).rpartition("\n")[0])
        new = [row for row in rows if self._note["step"] < row["step"] <= saved]
        for first in range(0, len(new), _AT_ONCE):
            reports = [
                Report(int(row["step"]), row, self._files.sheet(self._name, int(row["step"])))
                for row in new[first : first + _AT_ONCE]
            ]
            self._write(step=reports[-1].step)  # first: what is sent and not noted would be sent twice
            run.log(reports)

    def _write(self, **new: Any) -> None:
        kept = {key: value for key, value in (self._note or {}).items() if key not in ("end", "page")}
        self._note = {**kept, **new}
        self._files.write_note(self._name, self._tracker, self._note)

    def _facts(self) -> RunFacts:
        recipe = self._experiment.recipe
        environment = _parsed(self._files.read(self._name, ENVIRONMENT))
        return RunFacts(
            run_id=self._name,
            recipe=recipe.name,
            seed=recipe.seed,
            parameters=flatten(recipe.model_dump(mode="json", exclude_none=True), "."),
            tags={
                "raykd.run_id": self._name,
                "raykd.recipe": recipe.name,
                "raykd.seed": str(recipe.seed),
                "raykd.version": raykd.__version__,
                "raykd.commit": masked(str(environment.get("git") or "unknown")),
            },
            folder=self._files.folder(self._name),
        )
