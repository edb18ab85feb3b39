"""The directory of a run: the one place that knows what lies in it and how it is called.

    experiment.json       the run's recipe and those of all it builds on, as they were when it began
    recipe.yaml           its own recipe, for people and for `raykd train`
    environment.json      versions, hardware, source revision, data opened, the teacher's sum
    data.json             what its student wants to be shown: size, channels, mean, std, class names
    status.json           state, step, pace, result
    metrics.jsonl         a row per report, each with the CRC-32 of its own JSON
    samples/ tensorboard/ what people look at
    checkpoints/          see raykd.store.checkpoint
    breakdown.json        how the chosen student and its teacher answer the test split, by class and by confidence
    image_statistics.json  what the images look like that it makes in the end, see raykd.results
    report.html           the run for a reader, see raykd.reporting
    student.safetensors   the chosen weights of a finished run
    student_graph.safetensors  what a student that is the user's own code computes, see raykd.models.graph
    statistics.safetensors  class-conditional statistics that a network with BatchNorm leaves behind
    bank/                 see raykd.artifacts.bank
    pool/                 see raykd.artifacts.pool_files
    tracker_*.json wandb/  see raykd.tracking
    error.log             the traceback of a fault of ours

No path is stored, so a directory may be moved with what it builds on.
"""

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from raykd.config.yaml_file import load_yaml
from raykd.errors import CorruptError, InProgress, SetupError, UsageError
from raykd.files import (
    append,
    damaged,
    describe,
    is_file,
    is_folder,
    is_free,
    is_held,
    locked,
    make_folder,
    parse_content,
    read_json,
    read_text,
    refuse_links_out,
    replacing,
    sha256_of,
    sweep,
    write_json,
    write_text,
)
from raykd.recipe.experiment import Experiment, experiment_from_dict, resolve
from raykd.recipe.recipe import Recipe, dump_recipe, recipe_from_dict, selected_by
from raykd.results import Breakdown, ImageStatistics, RunResult, breakdowns_from_dict
from raykd.spec import DataSpec
from raykd.store.checkpoint import POOL, manifest_files, step_name, sweep_checkpoints
from raykd.store.rows import format_row, parse_rows
from raykd.store.status import ENVIRONMENT_TYPES, STATUS_TYPES, check_types, result_of
from raykd.tensors import read_tensors, sum_of_tensors

logger = logging.getLogger(__name__)

EXPERIMENT, RECIPE, ENVIRONMENT, DATA = "experiment.json", "recipe.yaml", "environment.json", "data.json"
STATUS, METRICS, ERRORS = "status.json", "metrics.jsonl", "error.log"
CHECKPOINTS, SAMPLES, TENSORBOARD, BANK, TRACKED = "checkpoints", "samples", "tensorboard", "bank", "wandb"
STUDENT, STATISTICS, _GRAPH = "student.safetensors", "statistics.safetensors", "student_graph.safetensors"
IMAGE_STATISTICS = "image_statistics.json"
BREAKDOWN, PAGE = "breakdown.json", "report.html"  # the page of a run, a search, a table or a store, in its folder
_LOCK = ".lock"
_WRITTEN_THROUGH = (CHECKPOINTS, SAMPLES, TENSORBOARD, BANK, POOL, METRICS, _LOCK)  # other links are replaced
_STEPS = ("step", "current_step", "resumed_from")
_RESTORE = "restore it from a backup, or move the run away and train it again"


@dataclass(frozen=True)
class RunDirectory:
    """A run on the disk. Nothing is opened or made before it is asked for."""

    path: Path

    @property
    def name(self) -> str:
        """Return the run's id."""
        return self.path.resolve().name

    @property
    def checkpoints(self) -> Path:
        """Return the folder of its checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def bank(self) -> Path:
        """Return the folder of its generators, if it trains a bank."""
        return self.path / BANK

    @property
    def pool(self) -> Path:
        """Return the folder of its images, if its method keeps a pool of them."""
        return self.path / POOL

    @property
    def student(self) -> Path:
        """Return the file of its chosen weights, which is there once the run is finished."""
        return self.path / STUDENT

    @property
    def graph(self) -> Path:
        """Return the file of its student's graph, which is there where that is code and could be traced."""
        return self.path / _GRAPH

    @property
    def statistics(self) -> Path:
        """Return the file of class-conditional statistics that it may leave."""
        return self.path / STATISTICS

    @property
    def tensorboard(self) -> Path:
        """Return the folder of TensorBoard's event files."""
        return self.path / TENSORBOARD

    @property
    def page(self) -> Path:
        """Return the file that shows the run to a reader."""
        return self.path / PAGE

    @property
    def error_log(self) -> Path:
        """Return the file that keeps the traceback of a fault of ours."""
        return self.path / ERRORS

    @property
    def exists(self) -> bool:
        """Tell whether it is a run's directory."""
        return (self.path / EXPERIMENT).is_file() or (self.path / RECIPE).is_file()

    @property
    def has_bank(self) -> bool:
        """Tell whether there are generators, be they all or not.

        Raises:
            CorruptError: if something else stands in their folder's place.
        """
        return is_folder(self.bank)

    @property
    def has_begun(self) -> bool:
        """Tell whether a run has written here how far it is."""
        return (self.path / STATUS).is_file()

    def require(self) -> None:
        """Refuse a directory that no run has written.

        Raises:
            UsageError: saying what is there instead.
        """
        if not self.exists:
            kind = "is not a run directory: it has no" if self.path.is_dir() else "does not exist; no"
            raise UsageError(f"{self.path} {kind} {RECIPE}; give the directory that `raykd train` printed")

    def experiment(self) -> Experiment:
        """Return the experiment as it was when the run began; nothing is looked up by name.

        A run of before experiments were kept has only its recipe, whose names are looked up now.

        Raises:
            UsageError: if it is no run directory.
            CorruptError: if its record is damaged.
        """
        self.require()
        file = self.path / EXPERIMENT
        try:
            return experiment_from_dict(read_json(file, _RESTORE))
        except FileNotFoundError:
            return self._looked_up()
        except UsageError as error:
            raise damaged(file, str(error), _RESTORE) from None

    def _looked_up(self) -> Experiment:
        file = self.path / RECIPE
        try:
            recipe = recipe_from_dict(load_yaml(file))
        except UsageError as error:
            raise damaged(file, str(error), _RESTORE) from None
        experiment = resolve(recipe)
        if experiment.run_id != self.name and self.name.startswith(f"{recipe.name}-"):
            logger.warning(
                "run %s keeps no record of the recipes it builds on, and one of these has changed since: what it names "
                "is taken as it is now",
                self.name,
            )
        return experiment

    def environment(self) -> dict[str, Any]:
        """Return what the run noted of where it ran; empty where that is not there or damaged, which is said."""
        found: dict[str, Any] = self._optional(ENVIRONMENT, partial(check_types, ENVIRONMENT_TYPES))
        return found

    def status(self) -> dict[str, Any]:
        """Return state, step and result; empty where there is none yet, or it is damaged, which is said.

        The checkpoints tell as much to who goes on with the run, which writes it anew.
        """
        found: dict[str, Any] = self._optional(STATUS, partial(check_types, STATUS_TYPES))
        return found

    def data_opened(self) -> Mapping[str, Any]:
        """Return what the run has opened, by role: of where it ran, or else of its result; empty of a run of before.

        Raises:
            CorruptError: if that was noted and is lost: what builds on the run would pass for data-free.
        """
        environment, file = self.environment(), self.path / ENVIRONMENT
        noted = {**(self.status().get("result") or {}), **environment}
        if "data_opened" not in noted and not environment and os.path.lexists(file):
            raise damaged(file, "it does not tell what the run has opened", _RESTORE)
        return noted.get("data_opened") or {}

    def _optional(self, name: str, read: Callable[[dict[str, Any]], Any]) -> Any:
        file, advice = self.path / name, "what it says is taken as unknown"
        try:
            found = read_json(file, advice)
            return parse_content(file, advice, lambda: read(found))
        except FileNotFoundError:
            return {}
        except CorruptError as error:
            logger.warning("%s", error)
            return {}

    @property
    def is_finished(self) -> bool:
        """Tell whether the run has its result."""
        return self.result() is not None

    def result(self) -> RunResult | None:
        """Return the result of a finished run; None before, or where it or the student is damaged, which is said."""
        status = self.status()
        try:
            result = result_of(self.name, status)
            if result is not None and "student_sha256" in status and not is_file(self.student):
                gone = "%s is gone, though the run was finished: the run goes on from what is left"
                logger.warning(gone, self.student)
                return None
            return result
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"result: {describe(error)}"
            logger.warning("%s", damaged(self.path / STATUS, what, "the run is finished anew from its last step"))
            return None

    def check_student(self, recipe: Recipe) -> None:
        """Compare the chosen weights of a run of ``recipe`` with what the run has noted of them.

        That is their sum in the status; where that says nothing, the same weights in the last checkpoint. Where only
        the weights were kept, their own format still tells whether they are whole.

        Raises:
            CorruptError: if they differ.
        """
        advice = "delete it to have the checkpoints judged, or restore it from a backup"
        expected = self.status().get("student_sha256")
        if expected is None:
            saved = self.checkpoints / step_name(recipe.schedule.steps)
            name = f"{selected_by(recipe)}.safetensors"
            noted = manifest_files(saved).get(name)
            if noted is None or not is_file(saved / name) or sha256_of(saved / name) != noted.get("sha256"):
                return
            sums = [sum_of_tensors({}, read_tensors(path, advice)) for path in (saved / name, self.student)]
        else:
            sums = [expected, sha256_of(self.student)]
        if sums[0] != sums[1]:
            raise damaged(self.student, "it differs from its checksum", advice)

    def is_at_work(self, asked_at: float) -> bool:
        """Tell whether the run goes on and was opened before ``asked_at``: then it has made steps that can be saved."""
        opened_at = self.opened_at
        return opened_at is not None and self.status().get("state") == "running" and asked_at > opened_at

    @property
    def opened_at(self) -> float | None:
        """Return when the run began here, or went on, in seconds since the epoch; None before."""
        try:
            return (self.path / ENVIRONMENT).stat().st_mtime
        except OSError:
            return None

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all reports so far, each with a ``step``; a line that is none is left out, and said.

        Raises:
            CorruptError: if the file cannot be read.
        """
        file = self.path / METRICS
        try:
            text = read_text(file)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise damaged(file, describe(error), _RESTORE) from None
        whole, _, _ = text.rpartition("\n")  # behind it is what was being written when the run was killed
        rows = parse_rows(whole)
        if left_out := len(whole.splitlines()) - len(rows):
            logger.warning(
                "%s is damaged (lines that are not as they were written: %d); they are left out", file, left_out
            )
        return rows

    def sample_sheets(self) -> list[tuple[int, Path]]:
        """Return the pictures of its images, each with the step that it is of, in order."""
        found = sorted((self.path / SAMPLES).glob("step_*.png"))
        return [(int(digits), path) for path in found if (digits := path.stem.removeprefix("step_")).isdecimal()]

    def breakdowns(self) -> dict[str, Breakdown]:
        """Return how student and teacher answer the test split; none where that was not noted, or is damaged."""
        found: dict[str, Breakdown] = self._optional(BREAKDOWN, breakdowns_from_dict)
        return found

    def write_breakdowns(self, breakdowns: Mapping[str, Breakdown]) -> None:
        """Keep how student and teacher answer the test split."""
        write_json(self.path / BREAKDOWN, {name: one.to_dict() for name, one in breakdowns.items()})

    def image_statistics(self) -> ImageStatistics | None:
        """Return what the images look like that it makes; None where that was not noted, or is damaged."""
        found: ImageStatistics | None = self._optional(IMAGE_STATISTICS, ImageStatistics.from_dict) or None
        return found

    def write_image_statistics(self, statistics: ImageStatistics) -> None:
        """Keep what the images look like that it makes."""
        write_json(self.path / IMAGE_STATISTICS, statistics.to_dict())

    def data(self) -> DataSpec | None:
        """Return what the student wants to be shown, or None of a run of before that was kept.

        Raises:
            CorruptError: if the record is damaged.
        """
        file = self.path / DATA
        try:
            found = read_json(file, _RESTORE)
        except FileNotFoundError:
            return None
        return parse_content(file, _RESTORE, lambda: DataSpec.from_dict(found))  # type: ignore[no-any-return]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say of an error in writing here where it was and what to do.

        Raises:
            SetupError: if a disk does not take what is written within.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            file = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
            raise SetupError(
                f"could not write into run directory {self.path} ({file}{describe(error)}); free some space or "
                "mend the storage, then run the same command"
            ) from error

    def write_opening(
        self, experiment: Experiment, spec: DataSpec, environment: Mapping[str, Any], *, step: int, steps: int
    ) -> None:
        """Bring the directory in order before a run begins, or goes on behind ``step`` of ``steps``.

        Raises:
            SetupError: if the disk does not take it.
        """
        with self.writing():
            write_json(self.path / EXPERIMENT, experiment.to_dict())
            write_text(self.path / RECIPE, dump_recipe(experiment.recipe))
            write_json(self.path / DATA, spec.to_dict())
            write_json(self.path / ENVIRONMENT, dict(environment))
            self.rewind(step)
            # Checkpoints that follow are not what a rewind goes back behind, and the pace is of another session.
            past = ("reason", "steps_per_second", *(("rewinding",) if "rewinding" in self.status() else ()))
            self.write_status(state="running", steps=steps, **dict.fromkeys(_STEPS, step), **dict.fromkeys(past))

    def write_status(self, **fields: Any) -> None:
        """Merge fields into the status: state (running, interrupted, failed, finished, pruned), step, result and so on.

        ``step`` is the last checkpoint's, ``current_step`` that of seconds ago, ``resumed_from`` the last opening's.
        """
        write_json(self.path / STATUS, {**self.status(), **fields, "updated": time.time()})

    def write_error_log(self, fault: Exception) -> str:
        """Keep the traceback of an exception that was raised; return where it is, or why it is nowhere.

        An error in writing is not raised, so that the exception itself is told.
        """
        try:
            make_folder(self.path)  # that of a run that failed before its first step was removed
            write_text(self.error_log, "".join(traceback.format_exception(fault)))
        except (OSError, CorruptError) as error:
            place = traceback.extract_tb(fault.__traceback__)[-1]
            return (
                f"it was raised at {place.filename}:{place.lineno}, and the traceback could not be kept in "
                f"{self.error_log} ({describe(error)})"
            )
        return f"the traceback is in {self.error_log}"

    def append_row(self, row: Mapping[str, float]) -> None:
        """Add a report's row, on the disk when this returns: a checkpoint without its row could not be mended."""
        append(self.path / METRICS, format_row(row).encode())

    def write_sample_sheet(self, step: int, picture: bytes) -> None:
        """Keep the picture of a step, a PNG."""
        folder = self.path / SAMPLES
        make_folder(folder)
        with replacing(folder / f"step_{step:07d}.png") as staging:
            staging.write_bytes(picture)

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``: a resumed run writes them again, and no step may appear twice."""
        kept = [row for row in self.rows() if row["step"] <= step]
        if (file := self.path / METRICS).exists():
            write_text(file, "".join(map(format_row, kept)))

    def copy_records(self, other: "RunDirectory", step: int) -> None:
        """Take over what another run has reported up to ``step``, and where it ran."""
        for name in (METRICS, ENVIRONMENT):
            if (other.path / name).is_file():
                write_text(self.path / name, read_text(other.path / name))
        self.rewind(step)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory, made if need be, for this job: a second one would tear its checkpoints.

        One that is empty in the end, as of a run that was refused, is removed.

        Raises:
            InProgress: if another process holds it, or has removed it just now.
            CorruptError: if something else stands in its place, or what it holds are links that lead elsewhere.
            SetupError: if the disk does not take it.
        """
        busy = (
            f"run {self.path.name} is in progress in another process; wait for it, "
            "or give this one another seed or another store"
        )
        with ExitStack() as held:
            try:
                make_folder(self.path)
                refuse_links_out(self.path, _WRITTEN_THROUGH)
                held.enter_context(locked(self.path / _LOCK, wait=False, busy=busy))
                self._sweep()
            except OSError as error:
                is_other = isinstance(error, FileExistsError | FileNotFoundError)
                if is_other and self.path.parent.is_dir():  # another process is just making or removing it
                    raise InProgress(busy) from None
                raise SetupError(
                    f"run directory {self.path} cannot be made or opened ({describe(error)}); mend the storage, or "
                    "use another store"
                ) from None
            held.callback(self._remove_if_unused)
            yield

    @contextmanager
    def held_to_remove(self) -> Iterator[None]:
        """Hold a directory that is there, so that no process begins to write into it.

        Raises:
            InProgress: if another process holds it.
            CorruptError: if something else stands in the place of its lock.
            SetupError: if it cannot be held.
        """
        with locked(self.path / _LOCK, wait=False, busy=f"run {self.name} is in progress in another process: stop it"):
            yield

    @property
    def is_left(self) -> bool:
        """Tell whether no process holds the directory for certain: one that was at it has ended."""
        return is_free(self.path / _LOCK)

    @property
    def is_held(self) -> bool:
        """Tell whether a process holds the directory for certain."""
        return is_held(self.path / _LOCK)

    def _sweep(self) -> None:
        for folder in (self.path, self.path / SAMPLES, self.bank, self.pool):
            sweep(folder)
        sweep_checkpoints(self.checkpoints)

    def _remove_if_unused(self) -> None:
        """Remove a directory that holds nothing but its lock, as of a run that was refused."""
        with suppress(OSError):
            if os.listdir(self.path) == [_LOCK]:
                (self.path / _LOCK).unlink()
                self.path.rmdir()


def runs_in(store: Path) -> list[RunDirectory]:
    """Return the runs of a store that have begun."""
    return [RunDirectory(path.parent) for path in sorted(store.glob(f"*/{STATUS}"))]
