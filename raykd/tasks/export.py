"""Write a run's student such that it runs without raykd, and prove that it answers as before.

The folder is made beside its place and moved there once all of it is written and compared; what fails leaves nothing.

Shapes: N images of C channels and S x S pixels, K classes.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import raykd
from raykd.distributed.world import World
from raykd.engine.build import build_spec
from raykd.errors import RunFailed, SetupError, UsageError, unknown
from raykd.files import damaged, describe, held, make_folder, sweep_folders, write_text, writing
from raykd.models.factories import split_target
from raykd.models.image_classifier import ImageClassifier
from raykd.models.permission import permit, require_permission
from raykd.results import FORMATS, ExportedModel, ExportResult
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tasks.evaluate import Outcome, build_student, open_run
from raykd.tasks.export_card import (
    CARD,
    LABELS,
    PREDICT,
    QUANTISED,
    UNKNOWN,
    Provenance,
    model_card,
    packages,
    predict_program,
)
from raykd.tasks.export_formats import (
    FILES,
    NETWORK,
    OPSET,
    Predict,
    define_network,
    read_onnx,
    read_program,
    read_weights,
    require_packages,
    write_onnx,
    write_program,
    write_weights,
)
from raykd.tasks.export_images import RunImages, ShownImages
from raykd.tasks.quantise import latency_ms, quantise

_BATCH = 256
_MARK = "raykd-export"  # in the name of a folder that is being written
_TOLERANCE = 1e-4  # of two logits, relative to the largest: sums in another order differ by about 1e-6


def export_run(
    run: RunDirectory,
    out: Path,
    data_root: Path | None,
    world: World,
    form: str,
    *,
    int8: bool = False,
    allow_code: bool = False,
) -> ExportResult:
    """Write the student that counts of a finished run to a folder, and compare what was written with it.

    Args:
        run: its directory.
        out: a folder that is empty or not there.
        data_root: of data sets by name.
        world: that makes images of the run's generators, where these are needed.
        form: one of ``FORMATS``.
        int8: whether to quantise it too; of ONNX.
        allow_code: whether code that the run names may run.

    Raises:
        CodeRefused: if its student is code that nobody has permitted, and has no graph, or is exported as weights.
        UsageError: for an unknown format, no finished run with a student, a folder in use, or a student that cannot be
            expressed.
        CorruptError: if what the run holds is damaged.
        RunFailed: if what was written answers differently.
        SetupError: if a package is missing, or the disk does not take it.
    """
    place = out.absolute()
    _check(form, int8, place)
    outcome = _open_finished(run)
    if form == "onnx":
        require_packages()
    experiment = outcome.experiment
    if allow_code:
        permit(experiment.networks, remember=False)
    workspace = Workspace(data_root, run.path.resolve().parent)
    subject = _open_subject(run, outcome, form, workspace)
    images = RunImages(run, subject.spec, workspace, world)
    shown = images.to_compare()
    calibration = images.to_calibrate() if int8 else None
    expected = _logits(subject.classifier, shown.pixels)
    if not expected.isfinite().all():
        raise damaged(outcome.origin, "the student's answers are not finite", "restore it from a backup")
    with _folder(place) as folder:
        result = _compare(subject, folder, subject.write(folder), shown, expected)
        if calibration is not None:
            result = _quantised(subject, result, folder, calibration, shown, expected)
        result = replace(result, folder=str(out), data_opened=images.opened.by_role())
        origin = Provenance(
            experiment,
            run.result(),
            run.data_opened(),
            run.environment().get("teacher_sha256"),
            sum(parameter.numel() for parameter in subject.network.parameters()),
        )
        write_text(folder / PREDICT, predict_program(form, subject.spec))
        write_text(folder / CARD, model_card(result, subject.spec, origin))
    return result


@dataclass(frozen=True)
class _Subject:
    """The student of a finished run on the CPU, to be written in a format.

    ``definition`` is the source of its network, where weights alone are written.
    """

    run: RunDirectory
    outcome: Outcome
    spec: DataSpec
    form: str
    network: nn.Module
    definition: str | None

    @property
    def classifier(self) -> ImageClassifier:
        """Return it as a network of pixels."""
        classifier = ImageClassifier(self.network, self.spec.mean, self.spec.std, self.spec.pad)
        classifier.eval()
        return classifier

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image that is given to it, (C, S, S)."""
        return self.spec.channels, self.spec.interior, self.spec.interior

    @property
    def input(self) -> str:
        """Say what it takes."""
        channels, side, _ = self.shape
        return f"images, uint8 [batch, {channels}, {side}, {side}], pixels from 0 to 255, of any batch size"

    @property
    def output(self) -> str:
        """Say what it answers."""
        return f"logits, float32 [batch, {self.spec.num_classes}]"

    @property
    def step(self) -> int:
        """Return how far it is trained."""
        result = self.run.result()
        step = None if result is None else result.student.step
        return self.outcome.step if step is None else int(step)

    @property
    def needs(self) -> list[str]:
        """Return what the program beside it imports."""
        config = self.outcome.experiment.recipe.student
        factory = None if self.definition is None or config is None else config.factory
        return packages(self.form, self.spec) + ([] if factory is None else [f"your module {split_target(factory)[0]}"])

    @property
    def metadata(self) -> dict[str, str]:
        """Return what ONNX tells of it."""
        spec, classes = self.spec, {}
        if spec.class_names:
            classes = {"classes": json.dumps(list(spec.class_names))}
        return {
            **classes,
            "input": self.input,
            "output": self.output,
            "normalisation": json.dumps(
                {"mean": list(spec.mean), "std": list(spec.std), "pad": spec.pad, "inside": True}
            ),
            "run": self.run.name,
            "method": self.outcome.experiment.recipe.method.name,
            "selected": self.outcome.selected,
            "data_opened": json.dumps(dict(self.run.data_opened()) or UNKNOWN),
            "raykd": raykd.__version__,
        }

    def write(self, folder: Path) -> Predict:
        """Write it with the names of its classes, and return what the file answers.

        Raises:
            UsageError: if it cannot be expressed.
        """
        file, names = folder / FILES[self.form], self.spec.class_names
        labels = [*names, *(str(label) for label in range(len(names), self.spec.num_classes))]
        write_text(folder / LABELS, json.dumps(labels, indent=1) + "\n")
        if self.form == "onnx":
            write_onnx(self.classifier, self.shape, self.metadata, file)
            return read_onnx(file)
        if self.form == "torch-export":
            write_program(self.classifier, self.shape, file)
            return read_program(file)
        assert self.definition is not None, "made for weights"
        write_text(folder / NETWORK, self.definition)
        write_weights(self.network, self.spec, file)
        return read_weights(file)


def _open_subject(run: RunDirectory, outcome: Outcome, form: str, workspace: Workspace) -> _Subject:
    config = outcome.experiment.recipe.student
    assert config is not None, "open_run found its weights"
    spec = run.data() or build_spec(outcome.experiment.recipe.data, workspace)
    definition = None
    if form in ("safetensors", "state-dict"):
        require_permission(config, f"run {run.name}")  # who uses the export would run it
        definition = define_network(config, spec)
    with torch.random.fork_rng(devices=[]):
        network = build_student(run, outcome, spec, workspace)
    outcome.load_into(network)
    network = network.cpu().eval().to(memory_format=torch.contiguous_format).requires_grad_(False)
    return _Subject(run, outcome, spec, form, network, definition)


def _check(form: str, int8: bool, out: Path) -> None:
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if int8 and form != "onnx":
        raise UsageError(f"8 bits are onnxruntime's, and the format is {form}: give onnx, or leave int8 out")
    if out == Path.cwd():
        raise UsageError("the working directory cannot be replaced under your shell; give a folder in it")
    if out.is_symlink() or (os.path.lexists(out) and not out.is_dir()):
        raise UsageError(f"{out} is a file or a link; give a folder that is empty or not there yet")
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; give a folder that is empty or not there yet")


def _open_finished(run: RunDirectory) -> Outcome:
    outcome = open_run(run)
    if not isinstance(outcome.weights, Path):
        steps = outcome.experiment.recipe.schedule.steps
        raise UsageError(
            f"run {run.name} has no finished student: it is at step {outcome.step:,} of {steps:,}; `raykd train` goes "
            "on with it"
        )
    return outcome


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of ``out`` in the end; none stays if anything fails.

    Raises:
        SetupError: if the disk does not take it.
    """
    parent, prefix = out.parent, f".{out.name}.{_MARK}."
    with ExitStack() as stack:
        stack.enter_context(writing(f"the export into {parent}"))
        make_folder(parent)
        sweep_folders(parent, prefix)
        temporary = Path(stack.enter_context(TemporaryDirectory(dir=parent, prefix=prefix)))
        stack.enter_context(held(temporary))
        folder = temporary / "export"
        folder.mkdir()
        try:
            yield folder
        except SafetensorError as error:  # of the disk, since the tensors are a network's
            raise OSError(describe(error)) from error
        try:
            folder.rename(out)
        except OSError as error:  # a mount, or a folder into which somebody has put something meanwhile
            raise SetupError(
                f"{out} cannot be replaced ({describe(error)}): give a folder that is not there yet"
            ) from error


def _compare(subject: _Subject, folder: Path, predict: Predict, shown: ShownImages, expected: Tensor) -> ExportResult:
    """Compare what was written with the student's logits (N, K), on every image.

    Raises:
        RunFailed: if they differ by more than rounding.
    """
    found = _logits(predict, shown.pixels)
    difference, tolerance = float((found - expected).abs().max()), _TOLERANCE * float(expected.abs().max())
    model = _measured(folder / FILES[subject.form], found, expected, shown)
    # Where answers differ within that, two logits of the student are as close.
    if not difference <= tolerance:
        raise RunFailed(
            f"what was exported differs from the student: by {difference:.3g} in a logit on {shown.name}, where "
            f"{tolerance:.3g} is allowed, and {len(expected) - model.same_answers:,} of {len(expected):,} answers are "
            "others; nothing is left of it"
        )
    return ExportResult(
        run=subject.run.name,
        folder=str(folder),
        format=subject.form,
        selected=subject.outcome.selected,
        step=subject.step,
        input=subject.input,
        output=subject.output,
        needs=subject.needs,
        class_names=bool(subject.spec.class_names),
        compared_on=shown.name,
        images=len(expected),
        max_difference=difference,
        tolerance=tolerance,
        model=model,
        data_opened={},
        opset=OPSET if subject.form == "onnx" else None,
    )


def _quantised(
    subject: _Subject,
    result: ExportResult,
    folder: Path,
    calibration: ShownImages,
    shown: ShownImages,
    expected: Tensor,
) -> ExportResult:
    file, target = folder / result.model.file, folder / QUANTISED
    quantise(file, calibration.pixels, target)
    model = _measured(target, _logits(read_onnx(target), shown.pixels), expected, shown)
    return replace(
        result,
        model=replace(result.model, latency_ms=latency_ms(file, subject.shape)),
        int8=replace(model, latency_ms=latency_ms(target, subject.shape)),
        calibrated_on=f"{calibration.name}, {len(calibration.pixels):,} images",
    )


def _measured(file: Path, found: Tensor, expected: Tensor, shown: ShownImages) -> ExportedModel:
    answers = found.argmax(1)
    top1 = None if shown.labels is None else 100 * float((answers == shown.labels).double().mean())
    return ExportedModel(file.name, file.stat().st_size, int((answers == expected.argmax(1)).sum()), top1)


@torch.no_grad()
def _logits(predict: Predict, pixels: Tensor) -> Tensor:
    return torch.cat([predict(batch).float() for batch in pixels.split(_BATCH)])
