"""Score the student of a run directory again, from nothing but what lies in it."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raykd.config.yaml_file import load_yaml
from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.engine.build import build_network, load_teacher, spec_of
from raykd.engine.evaluator import Evaluator
from raykd.errors import CorruptError, UsageError
from raykd.methods import METHODS
from raykd.models.teacher import Teacher
from raykd.models.weights import load_weights
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.store.checkpoint import MANIFEST, latest_checkpoint, read_checkpoint
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_RECIPE, _STUDENT = "recipe.yaml", "student.safetensors"


@dataclass(frozen=True)
class Outcome:
    """What a run directory holds: its recipe, and the final weights or those of a checkpoint.

    ``weights`` is a file (finished) or tensors by selection; ``selected`` is the one that counts.
    """

    recipe: Recipe
    selected: str
    step: int
    weights: Path | Mapping[str, Mapping[str, Tensor]]
    steps: Mapping[str, int]

    def load_into(self, student: nn.Module) -> None:
        """Give ``student`` the weights that count."""
        if isinstance(self.weights, Path):
            load_weights(student, self.weights)
        else:
            student.load_state_dict(self.weights[self.selected])


def open_run(directory: Path) -> Outcome:
    """Read a run directory, wherever it was moved to.

    Raises:
        UsageError: if it is no run directory, or nothing is saved in it yet.
        CorruptError: if what it holds is damaged.
    """
    if not (directory / _RECIPE).is_file():
        kind = "is not a run directory: it has no" if directory.is_dir() else "does not exist; no"
        raise UsageError(f"{directory} {kind} {_RECIPE}; give the directory that `raykd train` printed")
    try:
        recipe = recipe_from_dict(load_yaml(directory / _RECIPE))
    except UsageError as error:
        raise CorruptError(f"{directory.name}/{_RECIPE} is damaged: {error}") from error
    if recipe.student is None:
        raise UsageError(
            f"{directory.name} trained no student; it holds a bank: train one with 'bank={{run: {directory.name}}}'"
        )
    selected = "last" if METHODS[recipe.method.name].streams else "blind"
    checkpoints, student = directory / "checkpoints", directory / _STUDENT
    if student.is_file():
        _verify(student, checkpoints, selected, recipe.schedule.steps)
        return Outcome(recipe, selected, recipe.schedule.steps, student, {})
    newest = latest_checkpoint(checkpoints)
    if newest is None:
        raise UsageError(f"{directory} holds no checkpoint yet; `raykd train` goes on with it")
    checkpoint = read_checkpoint(newest)
    if selected not in checkpoint.weights:  # stopped before its first report
        selected = "last"
    # A stop between reports saves a newer last student than the selection knows of.
    steps = {**checkpoint.state["selection"]["steps"], "last": checkpoint.step}
    return Outcome(recipe, selected, checkpoint.step, checkpoint.weights, steps)


def evaluate_run(directory: Path, data_root: Path | None) -> dict[str, Any]:
    """Return the figures of a run's student on the test split, with its teacher's if there is one.

    Those of the selected student stand at the top, those of each saved selection under its name.

    Raises:
        UsageError: if ``directory`` is no run, or the test split is not under the data root.
        CorruptError: if recipe, weights or data are damaged.
    """
    outcome = open_run(directory)
    recipe, world = outcome.recipe, World.current()
    workspace = Workspace(data_root, directory.resolve().parent)
    spec = spec_of(recipe.data, workspace)
    assert recipe.student is not None, "open_run found its weights"
    student = build_network(recipe.student.model_copy(update={"weights": None}), spec, workspace, "student")
    teacher, obstacle = _reachable_teacher(recipe, workspace)
    opened = OpenedData(data_root)
    test = opened.open("test", recipe.data.name, "test", spec) if recipe.data.test else None
    evaluator = Evaluator(test, spec, world, teacher and teacher.to(world.device))
    student = student.to(world.device)
    if isinstance(outcome.weights, Path):
        outcome.load_into(student)
        figures = {outcome.selected: evaluator.score(student)}
    else:
        figures = {}
        for name, weights in outcome.weights.items():
            student.load_state_dict(weights)
            figures[name] = {"step": outcome.steps[name], **evaluator.score(student)}
    return {
        "run": directory.resolve().name,
        "finished": isinstance(outcome.weights, Path),
        "selected": outcome.selected,
        **figures[outcome.selected],
        "step": outcome.step,
        **figures,
        **evaluator.score_teacher(),
        "teacher_missing": obstacle,
        "data_opened": opened.by_role(),
        "published": recipe.published,
    }


def _reachable_teacher(recipe: Recipe, workspace: Workspace) -> tuple[Teacher | None, str | None]:
    if recipe.teacher is None:
        return None, None
    try:
        return load_teacher(recipe.teacher, spec_of(recipe.data, workspace), workspace)[0], None
    except UsageError as error:
        logger.warning("no teacher to compare with, so no agreement: %s", error)
        return None, str(error)


def _verify(student: Path, checkpoints: Path, selected: str, steps: int) -> None:
    """Compare the final weights with the sum that the last checkpoint keeps of the same tensors."""
    manifest = checkpoints / f"step_{steps:07d}" / MANIFEST
    try:
        expected = json.loads(manifest.read_text())["files"][f"{selected}.safetensors"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # only the student was kept: its own format still tells whether it is whole
    with student.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise CorruptError(
                f"{student.name} in {student.parent.name} differs from its checksum; "
                "delete it to have the checkpoints judged, or restore it from a backup"
            )
