"""What a student was exported to, and how that was checked."""

from collections.abc import Mapping
from dataclasses import dataclass

from raykd.results.base import Result

FORMATS = ("onnx", "torch-export", "safetensors", "state-dict")
"""What a student can be exported to."""


@dataclass(frozen=True)
class ExportedModel(Result):
    """A file of an export, measured.

    Attributes:
        file: its name in the folder; ``bytes`` is its size.
        same_answers: of how many of the images compared its answer is the student's.
        top1: accuracy in per cent; None where the images compared have no labels.
        latency_ms: median milliseconds for one image, by one thread of the CPU; None where it was not measured.
    """

    file: str
    bytes: int
    same_answers: int
    top1: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExportResult(Result):
    """A folder with a student that runs without raykd.

    Attributes:
        run: the run's id; ``folder`` is where the export lies.
        format: one of ``FORMATS``.
        opset: of ONNX; None of others.
        selected: which selection of the run's students it is; ``step`` is how far that was trained.
        input, output: what it takes and what it answers.
        needs: what the program beside it imports: packages of pip, and the module of a user's own network.
        class_names: whether the run knows names of the classes.
        compared_on: the images that it and the student were compared on, ``images`` of them.
        max_difference: the largest of their logits; at most ``tolerance``.
        model: the file itself.
        int8: the quantised file beside it, ``calibrated_on`` so many images; None without one.
        data_opened: what was opened for the comparison and the calibration, see RunResult.
    """

    run: str
    folder: str
    format: str
    selected: str
    step: int
    input: str
    output: str
    needs: list[str]
    class_names: bool
    compared_on: str
    images: int
    max_difference: float
    tolerance: float
    model: ExportedModel
    data_opened: Mapping[str, list[str]]
    opset: int | None = None
    int8: ExportedModel | None = None
    calibrated_on: str | None = None

    @property
    def argument(self) -> str:
        """Return what the program beside it is given: a picture's file, or else an array's."""
        return "IMAGE" if "pillow" in self.needs else "ARRAY.npy"
