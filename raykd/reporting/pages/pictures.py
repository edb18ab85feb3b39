"""Pictures of a page, as addresses that hold them: sheets of samples, mean images, first-layer kernels."""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from raykd.errors import CorruptError
from raykd.files import is_file, read_bytes
from raykd.reporting.pages.facts import RunFacts
from raykd.spec import DataSpec
from raykd.tensors import read_tensors

_SAMPLES_BYTES = 3 * 2**20
_SHEET_BYTES = 4 * 2**20  # of one, which others may have written
_MEANS_BYTES = 2**20
_MOST_SHEETS = 24
_WEIGHTS_BYTES = 2**29  # a page does not read more for one picture
_PNG = b"\x89PNG\r\n\x1a\n"
_KERNELS, _COLUMNS = 64, 16
_CELL, _GAP = 40, 4


@dataclass(frozen=True)
class Picture:
    """A picture and what it is called; ``address`` holds it."""

    name: str
    address: str


def sample_sheets(facts: RunFacts) -> list[Picture]:
    """Return pictures from the first to the last, as many as a page can hold."""
    found = [(step, path) for step, path in facts.run.sample_sheets() if path.is_file()]  # no link that leads nowhere
    kept: list[Picture] = []
    if not found:
        return kept
    size = max(1, found[-1][1].stat().st_size)
    most = max(1, min(_MOST_SHEETS, _SAMPLES_BYTES // size))
    chosen = sorted({round(index * (len(found) - 1) / max(1, most - 1)) for index in range(most)}) if most > 1 else [-1]
    for index in chosen:
        step, path = found[index]
        try:
            content = read_bytes(path, _SHEET_BYTES)
        except OSError:
            continue
        if content.startswith(_PNG):
            kept.append(Picture(f"step {step:,}", _address(content)))
    return kept


def mean_images(facts: RunFacts) -> list[Picture]:
    """Return the mean image of each class that has images, as many as a page can hold."""
    found = facts.image_statistics
    kept: list[Picture] = []
    if found is None:
        return kept
    names, left = facts.names_of_classes(len(found.images)), _MEANS_BYTES
    for name, text, images in zip(names, found.means, found.images, strict=False):
        try:
            content = base64.b64decode(text, validate=True)
        except ValueError:  # the file is damaged where no JSON shows it
            continue
        left -= len(text)
        if left > 0 and images and content.startswith(_PNG):
            kept.append(Picture(name, _address(content)))
    return kept


def kernel_sheets(facts: RunFacts) -> list[Picture]:
    """Return the kernels of the first layers of teacher and student, where their weights lie in this store."""
    spec = facts.data
    if spec is None:
        return []
    teacher = facts.experiment.teacher
    files = {"student": facts.run.student}
    if teacher is not None:
        files = {"teacher": facts.beside(teacher.run_id).student, **files}
    kernels = {name: _first_kernels(file, spec) for name, file in files.items()}
    return [Picture(_kernel_name(name, one), _drawn(one)) for name, one in kernels.items() if one is not None]


def _first_kernels(file: Path, spec: DataSpec) -> Tensor | None:
    """Return weights (M, C, H, W) that the images themselves meet; None where they cannot be told or read."""
    if not is_file(file) or file.stat().st_size > _WEIGHTS_BYTES:
        return None
    try:
        weights: Mapping[str, Tensor] = read_tensors(file, "its kernels are not drawn")
    except CorruptError:  # whoever uses the weights is refused; a page shows all else
        return None
    for name in sorted(weights, key=_by_numbers):
        one = weights[name]
        if not one.numel():
            continue
        if one.dim() == 4 and one.shape[1] == spec.channels and max(one.shape[2:]) > 1:
            return one.float()
        if one.dim() == 2 and one.shape[1] == spec.channels * spec.size**2:
            return one.float().view(-1, spec.channels, spec.size, spec.size)
    return None


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Sort ``layer10`` behind ``layer2``: so the first layer's weights come first, as models name them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _kernel_name(network: str, kernels: Tensor) -> str:
    count, channels, height, width = kernels.shape
    shown = f"{_KERNELS} of {count}" if count > _KERNELS else str(count)
    return f"{network}: {shown} kernels of {channels} × {height} × {width}"


def _drawn(kernels: Tensor) -> str:
    """Draw kernels, 0 as grey; of three channels in colour, else the mean over the channels."""
    shown = kernels[:_KERNELS].nan_to_num()
    if shown.shape[1] != 3:
        shown = shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    peak = shown.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    levels = ((shown / peak + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    columns = min(_COLUMNS, len(levels))
    rows = -(-len(levels) // columns)
    sheet = Image.new("RGBA", (columns * (_CELL + _GAP) - _GAP, rows * (_CELL + _GAP) - _GAP))
    for index, one in enumerate(levels):
        row, column = divmod(index, columns)
        cell = Image.fromarray(np.ascontiguousarray(one)).resize((_CELL, _CELL), Image.Resampling.NEAREST)
        sheet.paste(cell, (column * (_CELL + _GAP), row * (_CELL + _GAP)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return _address(buffer.getvalue())


def _address(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
