"""Look at a teacher before training: what it is, whether it is healthy and can be inverted."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from raykd.config.base import Config
from raykd.config.overrides import override
from raykd.config.yaml_file import explain, load_yaml
from raykd.data.datasets import Images
from raykd.data.ledger import OpenedData
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.engine.build import build_network, build_spec, find_weights
from raykd.engine.evaluator import Evaluator
from raykd.errors import ForeignFormat, UsageError
from raykd.files import sha256_of
from raykd.methods import METHODS
from raykd.methods.base import PATCHES
from raykd.models.adapters import BATCH_DEPENDENT, depends_on_batch
from raykd.models.moments import variance_gaps
from raykd.models.teacher import Teacher
from raykd.recipe.experiment import Experiment
from raykd.recipe.sections import DataConfig, NetworkConfig, TeacherConfig
from raykd.results import Figures, Inspection
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tasks.evaluate import Outcome, open_run

_PROBES = 512
_SEED = 0
_SATURATED = 99.0  # per cent of mean confidence on Gaussian inputs
_FEW_CLASSES = 0.1  # share of the largest possible entropy of the answers


_GAP_IMAGES = 256
_WRONG_GAP = 0.6
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
        return self.run.name if self.run is not None else Path(str(self.network.weights)).stem


def subject_of_run(run: RunDirectory) -> Subject:
    """Return the student of a run directory: it may be the next one's teacher.

    Raises:
        UsageError: if it is no run directory, or nothing is saved in it yet.
        CorruptError: if what it holds is damaged.
    """
    recipe = open_run(run).experiment.recipe
    assert recipe.student is not None, "open_run found its weights"
    return Subject(recipe.data, recipe.student, run)


def subject_of_file(path: Path, overrides: Iterable[str]) -> Subject | None:
    """Return the teacher of a YAML file of ``data`` and ``teacher`` only, or None.

    Raises:
        UsageError: for an unknown or a wrong value, naming the nearest match.
    """
    raw = load_yaml(path)
    if not raw.keys() <= _SECTIONS.keys():
        return None
    if isinstance(raw.get("data"), str):
        raw["data"] = {"name": raw["data"]}
    sections = {name: section.model_fields for name, section in _SECTIONS.items()}
    fields = {*sections, *(f"{name}.{field}" for name in sections for field in sections[name])}
    try:
        pair = _Pair.model_validate(override(raw, overrides, path.stem, fields))
    except ValidationError as error:
        raise explain(error, str(path), _Pair, raw) from None
    if pair.teacher.recipe is not None:
        raise UsageError(f"{path}: the teacher is a recipe; name that instead of this file: {pair.teacher.recipe}")
    return Subject(pair.data, pair.teacher)


def subject_of_recipe(experiment: Experiment, store: Path) -> Subject:
    """Return the recipe's teacher; of a recipe that needs none, its own finished student.

    Raises:
        UsageError: if the run that supplies it is not in ``store``.
    """
    recipe = experiment.recipe
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
    health = _batch_norm_health(teacher)
    probes = _probe(teacher, spec, world)
    images, missing = _test_images(subject.data, spec, workspace)
    test, gap = Figures(), None
    if "confidence" not in probes:
        missing = "the teacher's answers are not finite"
    elif images is not None:
        test = Evaluator(images, spec, world, teacher).score_teacher() or Figures()
        gap = _batch_norm_gap(teacher, images, spec, world)
        if gap is not None and gap > _WRONG_GAP:
            probes["notes"].append(
                f"BatchNorm sees other variances than it has learned (gap {gap:.2f}, with the right constants about "
                f"0.1): check data.mean and data.std, here {list(spec.mean)} and {list(spec.std)}"
            )
    return Inspection(
        source=config.model or config.factory,
        data=spec.name,
        input=[spec.channels, spec.size, spec.size],
        mean=list(spec.mean),
        std=list(spec.std),
        batch_norm_gap=gap,
        parameters=parameters,
        classes=teacher.num_classes,
        feature_width=teacher.feature_width,
        batch_norm_layers=len(teacher.batch_norms),
        batch_norm_faults=health,
        **probes,
        test=test,
        test_missing=missing,
        invertible=probes["gradient_to_input"] and not any(health.values()),
        sha256=digest,
        methods=_judge_methods(probes["gradient_to_input"], not any(health.values()), len(teacher.batch_norms)),
    )


def load_subject(subject: Subject, spec: DataSpec, workspace: Workspace) -> tuple[nn.Module, str | None]:
    """Return the network with its weights, and the sha256 of their file; None while its run is unfinished.

    Raises:
        UsageError: if network, weights and data do not fit together.
        CorruptError: if the weights are damaged.
    """
    if subject.run is None:
        assert subject.network.weights is not None, "validated by the configuration"
        return build_network(subject.network, spec, workspace, "teacher"), sha256_of(
            find_weights(subject.network.weights, workspace)
        )
    bare = subject.network.model_copy(update={"weights": None})
    network = build_network(bare, spec, workspace, "teacher")
    outcome: Outcome = open_run(subject.run)
    outcome.load_into(network)
    return network, sha256_of(outcome.weights) if isinstance(outcome.weights, Path) else None


def as_file_name(name: str) -> str:
    """Return a set's name, which may be a path, as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")


def _batch_norm_health(teacher: Teacher) -> dict[str, list[str]]:
    """Name the BatchNorm layers whose running statistics cannot be those of real data."""
    faults: dict[str, list[str]] = {"not_finite": [], "zero_variance": [], "never_updated": []}
    for name in teacher.batch_norms:
        layer: Any = teacher.network.get_submodule(name)
        mean, variance = layer.running_mean, layer.running_var
        if not (mean.isfinite().all() and variance.isfinite().all()):
            faults["not_finite"].append(name)
        elif bool((variance == 0).any()):
            faults["zero_variance"].append(name)
        elif bool((mean == 0).all() and (variance == 1).all()):
            faults["never_updated"].append(name)
    return faults


def _probe(teacher: Teacher, spec: DataSpec, world: World) -> dict[str, Any]:
    """Ask it about Gaussian inputs: a teacher that is sure of a single class is hard to invert."""
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.randn(_PROBES, spec.channels, spec.size, spec.size, generator=generator)
    with torch.no_grad():
        logits = torch.cat([teacher(b.to(world.device))[0].float() for b in images.split(64)]).cpu()
    if not logits.isfinite().all():
        return {"gradient_to_input": False, "notes": ["answers with values that are not finite"]}
    confidence = 100 * logits.softmax(1).max(1).values.mean().item()
    share = torch.bincount(logits.argmax(1), minlength=teacher.num_classes).double() / _PROBES
    entropy = -(share * share.clamp(min=1e-12).log()).sum().item()
    passes = _passes_gradient(teacher, images[:8].to(world.device))
    notes = [BATCH_DEPENDENT] if depends_on_batch(lambda batch: teacher(batch)[0], images[:8].to(world.device)) else []
    if entropy < _FEW_CLASSES * math.log(teacher.num_classes):
        notes.append("answers random inputs with hardly more than one class")
    if confidence > _SATURATED:
        notes.append("is saturated on random inputs, so gradients there are small")
    if not passes:
        notes.append("passes no usable gradient to its input")
    return {
        "confidence": confidence,
        "class_entropy": entropy,
        "classes_answered": int((share > 0).sum()),
        "gradient_to_input": passes,
        "notes": notes,
    }


def _passes_gradient(teacher: Teacher, images: Tensor) -> bool:
    images.requires_grad_()
    total = teacher(images)[0].float().logsumexp(1).sum()
    if not total.requires_grad:
        return False
    (slope,) = torch.autograd.grad(total, images, allow_unused=True)
    return slope is not None and bool(slope.isfinite().all()) and bool((slope != 0).any())


def _test_images(data: DataConfig, spec: DataSpec, workspace: Workspace) -> tuple[Images | None, str | None]:
    """Return the test split, or why there is none."""
    if not data.test:
        return None, "no test split (test: false)"
    try:
        return OpenedData(workspace.data).open("test", workspace.located(data).name, "test", spec), None
    except ForeignFormat:  # not for want of images
        raise
    except UsageError as error:
        return None, str(error)


@torch.no_grad()
def _batch_norm_gap(teacher: Teacher, images: Images, spec: DataSpec, world: World) -> float | None:
    """Return how far the variances of BatchNorm's inputs are from the running ones; None without such layers.

    With wrong constants of normalisation every layer sees other ones: on published CIFAR-10 and Fashion-MNIST networks
    it was 0.03 to 0.18 with the right constants and 1.04 to 2.38 with wrong ones.
    """
    rows = torch.linspace(0, len(images.labels) - 1, min(_GAP_IMAGES, len(images.labels))).long().unique()
    (batch,) = evaluation_batches(Images(images.pixels[rows], images.labels[rows]), spec, world, len(rows))
    with variance_gaps(teacher) as gaps:
        teacher(batch.images)
    return float(torch.stack(gaps).mean()) if gaps else None


def _judge_methods(has_gradient: bool, is_healthy: bool, batch_norms: int) -> dict[str, str]:
    """Say of every method that takes a teacher whether this one will do, and what else it wants."""
    verdicts = {}
    for name, method in METHODS.items():
        if "teacher" not in method.roles:
            continue
        if "bank" in method.roles:
            verdicts[name] = "suits; needs a bank of generators made from it"
        elif method.matches_statistics and not batch_norms:
            verdicts[name] = "does not suit: no BatchNorm layer whose statistics could be matched"
        elif method.streams:
            sets = [stream for stream in method.streams if stream != PATCHES]  # which shows the same set once more
            verdicts[name] = f"suits; needs data: {', '.join(sets)}"
        elif not has_gradient:
            verdicts[name] = "does not suit: no gradient reaches the input"
        elif not is_healthy:
            verdicts[name] = "doubtful: BatchNorm statistics are not those of real data"
        else:
            verdicts[name] = "suits; needs no data"
    return verdicts
