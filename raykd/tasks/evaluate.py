"""Score the student of a run directory again, from nothing but what lies in it."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.engine.build import build_network, build_spec, load_teacher
from raykd.engine.evaluator import Evaluator
from raykd.engine.finite import find_not_finite, listed, not_finite_numbers
from raykd.engine.selection import check_shapes
from raykd.engine.state import unfit
from raykd.errors import CorruptError, MissingPackage, UsageError
from raykd.files import damaged, is_file
from raykd.models.graph import read_graph
from raykd.models.permission import CodeRefused, permit, require_permission
from raykd.models.teacher import Teacher
from raykd.models.weights import load_weights
from raykd.recipe.experiment import Experiment
from raykd.recipe.recipe import selected_by
from raykd.results import Breakdown, Evaluation, Figures
from raykd.spec import DataSpec
from raykd.store.checkpoint import latest_checkpoint, read_checkpoint
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tensors import read_tensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run directory holds: its experiment, and the final weights or those of a checkpoint.

    ``weights`` is a file (finished) or tensors by selection; ``selected`` is the one that counts. They came from
    ``origin``, that file or a checkpoint's folder.
    """

    experiment: Experiment
    selected: str
    step: int
    weights: Path | Mapping[str, Mapping[str, Tensor]]
    steps: Mapping[str, int]
    origin: Path

    def load_into(self, student: nn.Module) -> None:
        """Give ``student`` the weights that count.

        Raises:
            CorruptError: if they are not those of such a network.
        """
        self._load(student, self.selected)

    def each(self, student: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give ``student`` one selection's weights after the other; yield its name and what is known of it.

        Raises:
            CorruptError: if they are not those of such a network.
        """
        if isinstance(self.weights, Path):
            self._load(student, self.selected)
            yield self.selected, {}
            return
        for name in self.weights:
            self._load(student, name)
            yield name, {"step": self.steps[name]}

    def _load(self, student: nn.Module, name: str) -> None:
        try:
            if isinstance(self.weights, Path):
                load_weights(student, self.weights)
            else:
                check_shapes(name, self.weights[name], student.state_dict())
                student.load_state_dict(self.weights[name])
        except ValueError as error:  # a UsageError too: nobody but the run has chosen this file
            raise damaged(self.origin, str(error), "restore it from a backup") from None


def open_run(run: RunDirectory) -> Outcome:
    """Read the student of a run directory, wherever it was moved to.

    Raises:
        UsageError: if it is no run directory, or nothing is saved in it yet.
        CorruptError: if what it holds is damaged.
    """
    experiment = run.experiment()
    recipe = experiment.recipe
    if recipe.student is None:
        raise UsageError(f"{run.name} trained no student; it holds a bank: train one with 'bank={{run: {run.name}}}'")
    selected = selected_by(recipe)
    if is_file(run.student):
        run.check_student(recipe)
        return Outcome(experiment, selected, recipe.schedule.steps, run.student, {}, run.student)
    if run.status().get("state") == "finished":
        logger.warning("%s is gone, though the run was finished: its newest checkpoint is judged", run.student)
    newest = latest_checkpoint(run.checkpoints)
    if newest is None:
        raise UsageError(f"{run.path} holds no checkpoint yet; `raykd train` goes on with it")
    checkpoint = read_checkpoint(newest)
    if selected not in checkpoint.weights:  # stopped before its first report
        selected = "last"
    try:
        # A stop between reports saves a newer last student than the selection knows of.
        steps = {**checkpoint.state["selection"]["steps"], "last": checkpoint.step}
        weights = {name: checkpoint.weights[name] for name in steps}
    except (KeyError, TypeError, AttributeError) as error:
        raise unfit(newest, error) from None
    return Outcome(experiment, selected, checkpoint.step, weights, steps, newest)


def evaluate_run(run: RunDirectory, data_root: Path | None, world: World, *, allow_code: bool = False) -> Evaluation:
    """Return the figures of a run's student on the test split, with its teacher's if there is one.

    With ``allow_code`` code that the run names may run; without it, a student that is code is computed by its graph.

    Raises:
        CodeRefused: if its student is code that nobody has permitted, and has no graph.
        UsageError: if it is no run, or the test split is not under the data root.
        CorruptError: if recipe, weights or data are damaged, or student or teacher answer by numbers not finite.
    """
    outcome = open_run(run)
    if allow_code:
        permit(outcome.experiment.networks, remember=False)
    recipe, opened = outcome.experiment.recipe, OpenedData(data_root)
    student, evaluator, obstacle = _make_evaluator(run, outcome, data_root, opened, world)
    teacher_figures = evaluator.score_teacher()
    if teacher_figures is not None and (names := not_finite_numbers(teacher_figures.to_dict())):
        raise CorruptError(
            f"the teacher of {run.name} answers by numbers that are not finite ({', '.join(names)}), though it was "
            "trained against: restore its weights from a backup"
        )
    figures = {}
    for name, known in outcome.each(student):
        if name == "best" and not recipe.data.test:
            continue
        found = evaluator.score(student)
        weights = find_not_finite(student.state_dict(keep_vars=True), of_buffers=False)
        if names := weights or not_finite_numbers(found):
            what = f"numbers of the {name} student are not finite: {listed(names)}"
            raise damaged(outcome.origin, what, "restore it from a backup")
        figures[name] = Figures.from_dict({**known, **found})
    return Evaluation(
        run=run.name,
        finished=isinstance(outcome.weights, Path),
        selected=outcome.selected,
        step=outcome.step,
        teacher_missing=obstacle,
        data_opened=opened.by_role(),
        published=recipe.published,
        last=figures.get("last"),
        blind=figures.get("blind"),
        best=figures.get("best"),
        teacher=teacher_figures,
    )


def break_down_run(run: RunDirectory, data_root: Path | None, world: World) -> dict[str, Breakdown]:
    """Return how a run's student, and its teacher where that is found, answer the test split.

    Raises:
        UsageError, CorruptError: as ``evaluate_run``.
    """
    outcome = open_run(run)
    if not outcome.experiment.recipe.data.test:
        return {}
    student, evaluator, _ = _make_evaluator(run, outcome, data_root, OpenedData(data_root), world)
    outcome.load_into(student)
    found = {"student": evaluator.score_in_detail(student)[1], "teacher": evaluator.break_down_teacher()}
    return {name: one for name, one in found.items() if one is not None}


def _make_evaluator(
    run: RunDirectory, outcome: Outcome, data_root: Path | None, opened: OpenedData, world: World
) -> tuple[nn.Module, Evaluator, str | None]:
    """Return a run's student without its weights, what scores it, and why that has no teacher if it has none."""
    recipe, workspace = outcome.experiment.recipe, Workspace(data_root, run.path.resolve().parent)
    spec = build_spec(recipe.data, workspace)
    student = build_student(run, outcome, spec, workspace)
    teacher, obstacle = _reachable_teacher(outcome.experiment, run, spec, workspace)
    data = workspace.located(recipe.data)
    test = opened.open_test(data.name, spec, data.buffer) if data.test else None
    evaluator = Evaluator(test, spec, world, teacher and teacher.to(world.device))
    return student.to(world.device), evaluator, obstacle


def build_student(run: RunDirectory, outcome: Outcome, spec: DataSpec, workspace: Workspace) -> nn.Module:
    """Return the network of a run's student, whose weights are still to be loaded.

    Where it is code that nobody has permitted, it is computed by its graph, if the run has kept one.

    Raises:
        CodeRefused: if there is none.
        CorruptError: if that is damaged.
    """
    config = outcome.experiment.recipe.student
    assert config is not None, "open_run found its weights"
    try:
        require_permission(config, f"run {run.name}")
    except CodeRefused:
        if not (is_file(run.graph) and is_file(run.student)):
            raise
        logger.info("%s is code, which is not run: the run's graph is computed (--allow-code runs it)", config.factory)
        weights = read_tensors(run.student, "restore it from a backup")
        return read_graph(run.graph, weights, (spec.channels, spec.size, spec.size), spec.num_classes)
    return build_network(config.model_copy(update={"weights": None}), spec, workspace, "student")


def _reachable_teacher(
    experiment: Experiment, run: RunDirectory, spec: DataSpec, workspace: Workspace
) -> tuple[Teacher | None, str | None]:
    """Return the teacher that the run was trained against, or why it cannot be had."""
    if experiment.recipe.teacher is None:
        return None, None
    sha256 = run.environment().get("teacher_sha256")
    try:
        return load_teacher(experiment, spec, workspace, sha256=sha256)[0], None
    except (UsageError, CorruptError, MissingPackage) as error:
        logger.warning("no teacher to compare with, so no agreement: %s", error)
        return None, str(error)
