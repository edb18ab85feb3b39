"""Look at a teacher before training: what it is, whether it is healthy and can be inverted."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from raykd.config.base import Config
from raykd.config.overrides import override
from raykd.config.yaml_file import explain
from raykd.data.datasets import Images, find_split
from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.engine.build import build_network, build_spec, find_weights
from raykd.engine.evaluator import Evaluator
from raykd.engine.implied_pixels import implied_pixels
from raykd.errors import ForeignFormat, UsageError
from raykd.files import sha256_of
from raykd.generators import outside_share
from raykd.methods import METHODS
from raykd.methods.signs import Suitability, TeacherSigns
from raykd.methods.suitability import SATURATED, judge
from raykd.models.adapters import BATCH_DEPENDENT, depends_on_batch
from raykd.models.permission import permit, require_permission
from raykd.models.published import TRANSFORMERS, find_facts, is_published
from raykd.models.teacher import Teacher
from raykd.models.weights_file import sum_of_weights
from raykd.recipe.experiment import Experiment
from raykd.recipe.published_teacher import complete, find_contradictions
from raykd.recipe.recipe import read_sections
from raykd.recipe.sections import DataConfig, NetworkConfig, TeacherConfig
from raykd.results import Figures, Inspection, MethodVerdict
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tasks import teacher_signs as signs
from raykd.tasks.evaluate import Outcome, open_run

_FEW_CLASSES = 0.1  # share of the largest possible entropy of the answers
_SECTIONS: dict[str, type[Config]] = {"data": DataConfig, "teacher": TeacherConfig}


class _Pair(Config):
    """A teacher of the user's own and the data it was trained on."""

    data: DataConfig
    teacher: TeacherConfig


@dataclass(frozen=True)
class Subject:
    """A teacher to look at; ``run`` is the directory of the run that made it, if one did."""

    data: DataConfig
    network: NetworkConfig | TeacherConfig
    run: RunDirectory | None = None

    @property
    def title(self) -> str:
        """Return what a file made for this teacher is named by: its run, or its file of weights."""
        if self.run is not None:
            return self.run.name
        model, weights = self.network.model, self.network.weights
        if model is not None and (model.startswith(TRANSFORMERS) or is_published(model, weights)):
            return model.rstrip("/").rpartition("/")[2]
        return Path(str(weights)).stem


def subject_of_run(run: RunDirectory, *, allow_code: bool = False) -> Subject:
    """Return the student of a run directory: it may be the next one's teacher. It may be code with ``allow_code``.

    Raises:
        UsageError: if it is no run directory, or nothing is saved in it yet.
        CorruptError: if what it holds is damaged.
    """
    if allow_code:
        permit(run.experiment().networks, remember=False)
    recipe = open_run(run).experiment.recipe
    assert recipe.student is not None, "open_run found its weights"
    return Subject(recipe.data, recipe.student, run)


def subject_of_file(path: Path, overrides: Iterable[str]) -> Subject | None:
    """Return the teacher of a YAML file of ``data`` and ``teacher`` only, or None.

    Raises:
        UsageError: for an unknown or a wrong value, naming the nearest match.
    """
    raw = read_sections(path)
    if not raw.keys() <= _SECTIONS.keys():
        return None
    sections = {name: section.model_fields for name, section in _SECTIONS.items()}
    fields = {*sections, *(f"{name}.{field}" for name in sections for field in sections[name])}
    try:
        pair = _Pair.model_validate(override(raw, overrides, path.stem, fields))
    except ValidationError as error:
        raise explain(error, str(path), _Pair, raw) from None
    if pair.teacher.recipe is not None:
        raise UsageError(f"{path}: the teacher is a recipe; name that instead of this file: {pair.teacher.recipe}")
    permit([pair.teacher])
    return Subject(*complete(pair.data, pair.teacher))


def subject_of_recipe(experiment: Experiment, store: Path) -> Subject:
    """Return the teacher of a recipe of the user's; of a recipe that needs none, its own finished student.

    Raises:
        UsageError: if the run that supplies it is not in ``store``.
    """
    recipe = experiment.recipe
    permit(experiment.networks)
    if recipe.teacher is not None and recipe.teacher.recipe is None:
        return Subject(recipe.data, recipe.teacher)
    source = experiment.teacher or experiment
    name, student = source.recipe.name, source.recipe.student
    if student is None:
        raise UsageError(f"recipe {name!r} names no teacher and trains no network")
    run = RunDirectory(store / source.run_id)
    if not run.path.is_dir():
        raise UsageError(f"the teacher's run {source.run_id} is not in {store}/; train it: raykd train {name}")
    return Subject(recipe.data, student, run)


def inspect_teacher(subject: Subject, workspace: Workspace) -> Inspection:
    """Return what is known of a teacher without training: figures in per cent, nats and counts.

    Raises:
        UsageError: if network, weights and data do not fit together.
        CorruptError: if weights or data are damaged.
    """
    spec, world = build_spec(subject.data, workspace), World.current()
    network, digest = load_subject(subject, spec, workspace)
    parameters = sum(p.numel() for p in network.parameters())
    teacher = Teacher(network, channels=spec.channels, size=spec.size).to(world.device)
    config = subject.network
    faults = signs.batch_norm_faults(teacher)
    gaussian = signs.gaussian_batches(spec, world)
    answers = signs.answers_to(teacher, gaussian)
    facts = find_facts(config.model, config.weights) if subject.run is None else None
    contradictions = [] if facts is None else find_contradictions(spec, config)
    gradient = answers.finite and signs.passes_gradient(teacher, gaussian[0][:8])
    images, missing = open_test_split(subject.data, spec, workspace)
    test, gap, on_images = Figures(), None, None
    implied, wrong = (None, None) if any(faults.values()) else implied_pixels(teacher, spec)
    if not answers.finite:
        missing = "the teacher's answers are not finite"
    elif images is not None:
        test = Evaluator(images, spec, world, teacher).score_teacher() or Figures()
        some = signs.image_batch(images, spec, world)
        gap, on_images = signs.batch_norm_gap(teacher, some), signs.answers_to(teacher, [some])
    if gap is not None:
        wrong = None
        if gap > signs.WRONG_GAP and not any(faults.values()):
            wrong = (
                f"BatchNorm sees other variances than it has learned (gap {gap:.2f}, with the right constants about "
                f"0.1): check data.mean and data.std, here {list(spec.mean)} and {list(spec.std)}"
            )
    found = TeacherSigns(
        classes=teacher.num_classes,
        channels=spec.channels,
        size=spec.size,
        batch_norms=len(teacher.batch_norms),
        no_batch_norm=signs.why_no_batch_norm(teacher),
        sick=any(faults.values()),
        finite=answers.finite,
        gradient=gradient,
        confidence=answers.confidence if answers.finite else None,
        noise_classes=math.exp(answers.entropy) if answers.finite else None,
        image_confidence=on_images.confidence if on_images else None,
        negative_features=(on_images or answers).negative_features,
        outside=outside_share(spec),
        wrong_input=None if wrong is None else "data.mean and data.std look wrong: see notes",
        train_missing=_why_no_training_images(subject.data, workspace),
    )
    return Inspection(
        source=config.model or config.factory,
        data=spec.name,
        input=[spec.channels, spec.size, spec.size],
        mean=list(spec.mean),
        std=list(spec.std),
        batch_norm_gap=gap,
        implied_mean=list(implied.mean) if implied else None,
        implied_std=list(implied.std) if implied else None,
        parameters=parameters,
        classes=teacher.num_classes,
        feature_width=teacher.feature_width,
        negative_features=100 * found.negative_features,
        batch_norm_layers=len(teacher.batch_norms),
        batch_norm_faults=faults,
        gradient_to_input=gradient,
        notes=[*_notes(found, teacher, gaussian[0][:8]), *([wrong] if wrong else []), *contradictions],
        published=None if facts is None else str(facts),
        confidence=found.confidence,
        class_entropy=answers.entropy if answers.finite else None,
        classes_answered=answers.named if answers.finite else None,
        image_confidence=found.image_confidence,
        test=test,
        test_missing=missing,
        invertible=gradient and not found.sick,
        sha256=digest,
        methods={name: _verdict(judge(method, found)) for name, method in METHODS.items()},
    )


def load_subject(subject: Subject, spec: DataSpec, workspace: Workspace) -> tuple[nn.Module, str | None]:
    """Return the network with its weights, and the sha256 of their file; None while its run is unfinished.

    Raises:
        CodeRefused: if it is code that nobody has permitted.
        UsageError: if network, weights and data do not fit together.
        CorruptError: if the weights are damaged.
    """
    if subject.run is None:
        return build_network(subject.network, spec, workspace, "teacher"), sum_of_weights(
            find_weights(subject.network, workspace)
        )
    require_permission(subject.network, f"run {subject.run.name}")
    bare = subject.network.model_copy(update={"weights": None})
    network = build_network(bare, spec, workspace, "teacher")
    outcome: Outcome = open_run(subject.run)
    outcome.load_into(network)
    return network, sha256_of(outcome.weights) if isinstance(outcome.weights, Path) else None


def as_file_name(name: str) -> str:
    """Return a set's name, which may be a path, as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")


def _notes(found: TeacherSigns, teacher: Teacher, some: Tensor) -> list[str]:
    """Say what is odd about a teacher: one that is sure of a single class is hard to invert."""
    if not found.finite or found.noise_classes is None or found.confidence is None:
        return ["answers with values that are not finite"]
    notes = [BATCH_DEPENDENT] if depends_on_batch(lambda batch: teacher(batch)[0], some) else []
    if math.log(found.noise_classes) < _FEW_CLASSES * math.log(found.classes):
        notes.append("answers random inputs with hardly more than one class")
    if found.confidence > SATURATED:
        notes.append("is saturated on random inputs, so gradients there are small")
    if not found.gradient:
        notes.append("passes no usable gradient to its input")
    return notes


def open_test_split(data: DataConfig, spec: DataSpec, workspace: Workspace) -> tuple[Images | None, str | None]:
    """Return the test split, or why there is none."""
    if not data.test:
        return None, "no test split (test: false)"
    try:
        return OpenedData(workspace.data).open("test", workspace.located(data).name, "test", spec), None
    except ForeignFormat:  # not for want of images
        raise
    except UsageError as error:
        return None, str(error)


def _why_no_training_images(data: DataConfig, workspace: Workspace) -> str | None:
    """Return why there are no images to train on, None where there are."""
    if data.num_classes is not None:
        return "the data is described, not held"
    located = workspace.located(data)
    try:
        find_split(located.train or located.name, "train", workspace.data)
    except UsageError:
        return f"set {data.train or data.name!r} is not here"
    return None


def _verdict(found: Suitability) -> MethodVerdict:
    reasons = [*found.texts("refused"), *(f"without {text}" for text in found.texts("without"))]
    return MethodVerdict(found.verdict, reasons, *(found.texts(kind) for kind in ("needs", "pro", "con")))
