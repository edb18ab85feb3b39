"""What a run's directory tells a reader, read once for all pages that speak of the run."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from raykd.config.differences import differences
from raykd.errors import CorruptError, UsageError
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.results import SELECTIONS, Breakdown, Figures, ImageStatistics, RunResult
from raykd.spec import DataSpec
from raykd.store.run_directory import ENVIRONMENT, RECIPE, RunDirectory

_SEEDS_LOOKED_AT = 100
_COSTS = ("images", "seconds", "teacher_forwards", "gpu_hours")


@dataclass(frozen=True)
class RunFacts:
    """A run and what it has written.

    Attributes:
        run: its directory.
        experiment: its recipe, and those that it builds on.
        status, environment: see RunDirectory.
        result: None before it is finished.
        rows: of its reports, numbers alone.
        breakdowns: by network, ``student`` and ``teacher``.
        opened: ``name/split`` of what it has opened, by role; a role that was not noted is not there.
        lost: what was noted and cannot be read any more, for the reader of a page.
        data: what its student wants to be shown; None where that is not noted, or is damaged.
        image_statistics: of the images that it makes in the end; None where that was not noted.
    """

    run: RunDirectory
    experiment: Experiment
    status: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: RunResult | None
    rows: Sequence[Mapping[str, float]]
    breakdowns: Mapping[str, Breakdown]
    opened: Mapping[str, Sequence[str]]
    lost: Sequence[str] = ()
    data: DataSpec | None = None
    image_statistics: ImageStatistics | None = None

    @property
    def recipe(self) -> Recipe:
        """Return its own recipe."""
        return self.experiment.recipe

    @property
    def stem(self) -> str:
        """Return its id without the seed."""
        return self.run.name.rpartition("-s")[0]

    def names_of_classes(self, count: int) -> list[str]:
        """Return the names of ``count`` classes, their numbers where the data have no such names."""
        names = list(self.data.class_names) if self.data is not None else []
        return names if len(names) == count else [str(index) for index in range(count)]

    @property
    def state(self) -> str:
        """Return whether it is finished, running, interrupted, failed or pruned."""
        return "finished" if self.result is not None else str(self.status.get("state", "unknown"))

    @property
    def step(self) -> int:
        """Return the step of its last report."""
        return int(self.status.get("step", 0))

    @property
    def steps(self) -> int:
        """Return how many it is to have."""
        return int(self.status.get("steps", self.recipe.schedule.steps))

    @property
    def not_judged(self) -> str | None:
        """Return why its figures on synthetic images say nothing; None if they do, or there are none."""
        found = self.result.not_judged if self.result is not None else self.status.get("not_judged")
        return str(found) if found else None

    @property
    def phases(self) -> Mapping[str, float]:
        """Return the seconds that it has spent so far, by what they were spent on."""
        found = self.result.phases if self.result is not None else self.status.get("phases")
        return {name: seconds for name, seconds in _numbers_of(found or {}).items() if seconds > 0}

    @cached_property
    def student(self) -> Figures:
        """Return the figures of the student that counts; of one unfinished those of its last report."""
        if self.result is not None:
            return self.result.student
        return Figures.from_dict(self.rows[-1]) if self.rows else Figures()

    @property
    def headline(self) -> tuple[str, float] | None:
        """Return what the run is judged by first, and its figure in per cent; None where it has none."""
        student, quality = self.student, self.result.image_quality if self.result is not None else {}
        selected = self.result.selected if self.result is not None else "last report"
        for name, figure in (
            (f"top-1 on the test split, {selected} student", student.top1),
            (f"agreement with the teacher on the test split, {selected} student", student.agreement),
            ("generated images that the teacher takes for the class that they are for", quality.get("hit")),
            (
                f"agreement with the teacher on synthetic images, {selected} student",
                None if self.not_judged else student.synthetic_agreement,
            ),
        ):
            if figure is not None:
                return name, figure
        return None

    @cached_property
    def controls(self) -> list["RunFacts"]:
        """Return the finished runs beside it whose figures are not the method's merit."""
        found = [self._beside(control.run_id) for control in self.experiment.controls]
        return [one for one in found if one is not None and one.result is not None]

    @cached_property
    def seeds(self) -> list["RunFacts"]:
        """Return the finished runs that differ in the seed alone, this one perhaps among them, by their seeds."""
        folders = sorted(self.run.path.resolve().parent.glob(f"{self.stem}-s*"))[:_SEEDS_LOOKED_AT]
        found = [self if path.name == self.run.name else self._beside(path.name) for path in folders]
        kept = [one for one in found if one is not None and one.result is not None]
        return sorted(kept, key=lambda one: one.recipe.seed)

    def beside(self, run_id: str) -> RunDirectory:
        """Return the directory of another run of the same store."""
        return RunDirectory(self.run.path.resolve().parent / run_id)

    def _beside(self, run_id: str) -> "RunFacts | None":
        run = self.beside(run_id)
        try:
            return read_run(run) if run.exists else None
        except (UsageError, CorruptError):  # the page is about this run, and that one is named when it is read itself
            return None


def read_run(run: RunDirectory) -> RunFacts:
    """Read a run's directory.

    Raises:
        UsageError: if it is no run directory.
        CorruptError: if its record or its rows are damaged.
    """
    experiment = run.experiment()
    try:
        data = run.data()
    except CorruptError:  # whoever shows images to the student is told; here it only names classes
        data = None
    opened, lost = _read_opened(run)
    return RunFacts(
        run,
        experiment,
        run.status(),
        run.environment(),
        _finite_result(run.result()),
        [_numbers_of(row) for row in run.rows()],
        run.breakdowns(),
        opened,
        lost,
        data,
        run.image_statistics(),
    )


def _read_opened(run: RunDirectory) -> tuple[dict[str, list[str]], list[str]]:
    """Return what a run has opened, by role, and what is to be said where that is lost."""
    try:
        found = run.data_opened()
    except CorruptError:  # who builds on the run is refused; a page says so and shows all else
        return {}, [f"{ENVIRONMENT} is damaged: what the run has opened is lost, and with it whether it is data-free"]
    return {role: [*map(str, sets)] for role, sets in found.items() if isinstance(sets, list)}, []


def finite(value: Any) -> float | None:
    """Return a number as it can be drawn; None for what is none, is not finite, or is too large for a float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: number for key, value in row.items() if (number := finite(value)) is not None}


def _finite_result(result: RunResult | None) -> RunResult | None:
    """Return a result without figures and costs that nobody can draw, as of a run that has diverged."""
    if result is None:
        return None
    kept: dict[str, Any] = {name: finite(getattr(result, name)) for name in _COSTS}
    for name in (*SELECTIONS, "teacher"):
        if (figures := getattr(result, name)) is not None:
            kept[name] = _finite_figures(figures)
    return replace(result, **kept, image_quality=_numbers_of(result.image_quality))


def _finite_figures(figures: Figures) -> Figures:
    names = [one.name for one in fields(figures) if one.name != "more"]
    own: dict[str, Any] = {name: finite(getattr(figures, name)) for name in names}
    return replace(figures, **own, more=_numbers_of(figures.more))


def recipe_differences(*recipes: Recipe) -> dict[str, list[str]]:
    """Return the fields in which recipes differ but for their names, each with its value in every one of them."""
    found = differences(*(recipe.model_dump(mode="json") for recipe in recipes))
    return {key: values for key, values in found.items() if key != "name"}


def packaged_recipe(name: str) -> Recipe | None:
    """Return the packaged recipe of a name, None where there is none."""
    try:
        return load_recipe(name)
    except UsageError:
        return None


def train_command(facts: RunFacts, shown: str) -> str:
    """Return what a shell is given to train the run anew: by the packaged recipe's name where that leads to it.

    ``shown`` is how the run's directory is called, whose own recipe is the way else.
    """
    base, words = packaged_recipe(facts.recipe.name), [f"{shown}/{RECIPE}"]
    if base is not None:
        found = recipe_differences(base, facts.recipe)
        pairs = [f"{key}={value}" for key, (_, value) in found.items() if value]
        try:
            again = load_recipe(base.name, pairs)
        except UsageError:
            again = base
        if again == facts.recipe:
            words = [base.name, *pairs]
    precision = facts.environment.get("precision")
    options = ["--precision", precision] if precision in ("tf32", "bf16") else []  # which no recipe has
    return shlex.join(["raykd", "train", *words, *options])


def train_notes(facts: RunFacts) -> list[str]:
    """Return what ``train_command`` cannot name: the store, and the cluster of several workers."""
    if facts.result is None:
        notes = ["In its own store this goes on with the run; to begin anew, name another store with --out."]
    else:
        notes = ["Name another store with --out: in its own one the finished run is read, and not trained again."]
    workers = facts.environment.get("workers")
    if isinstance(workers, int) and workers > 1:
        notes.append(f"It was trained by {workers} workers: name their cluster with --cluster.")
    return notes
