"""A picture that a person can read: synthetic images in a grid, the teacher's label under each; under them real ones.

The last row are real images of another domain, where a method takes such: what patches can be compared with.
"""

import base64
import io
from collections.abc import Mapping

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from raykd.distributed.world import mix
from raykd.methods.base import Method
from raykd.spec import Batch, DataSpec

_COLUMNS, _ROWS = 10, 4
_CELL, _CAPTION, _GAP = 96, 16, 4
_THUMBNAIL = 64
_FRAME_BYTES = 18_000  # of captions and gaps
_BATCH = 256  # generators normalise over the batch, so a few images alone would look unlike training's
_SEED = 0x5A3  # the same latents at every report, so that the pictures can be compared


def sample_sheet(method: Method, teacher: nn.Module | None, batches: Mapping[str, Batch]) -> bytes | None:
    """Return the picture of a method's present images, or None for one that makes none; ``batches`` are its last."""
    if not method.makes_images or teacher is None:
        return None
    images = method.sample(_BATCH, mix(method.context.seed, _SEED))[: _COLUMNS * _ROWS]
    synthetic = len(images)
    if "patches" in batches:
        images = torch.cat([images, batches["patches"].images[:_COLUMNS]])
    with torch.no_grad():
        teacher_logits = teacher(images)[0]
    return draw_samples(images, teacher_logits.float().cpu(), method.context.spec, synthetic)


def draw_samples(images: Tensor, teacher_logits: Tensor, spec: DataSpec, synthetic: int) -> bytes:
    """Return a PNG of images (N, C, H, W), captioned with the teacher's label and confidence; the first are synthetic.

    In their true colours: mean and std are undone, and what leaves [0, 1] is black or white.
    """
    rows = -(-len(images) // _COLUMNS)
    width, height = _COLUMNS * (_CELL + _GAP), rows * (_CELL + _CAPTION + _GAP)
    sheet = Image.new("RGB", (width + _GAP, height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    confidence, labels = teacher_logits.softmax(1).max(1)
    for index, image in enumerate(spec.denormalise(images.detach().float().cpu())):
        row, column = divmod(index, _COLUMNS)
        left, top = _GAP + column * (_CELL + _GAP), _GAP + row * (_CELL + _CAPTION + _GAP)
        sheet.paste(
            _picture(image).resize((_CELL, _CELL), Image.Resampling.NEAREST),
            (left, top),
        )
        label = int(labels[index])
        name = spec.class_names[label] if spec.class_names else str(label)
        origin = "" if index < synthetic else "real: "
        pen.text((left, top + _CELL + 2), f"{origin}{name[:10]} {100 * confidence[index]:.0f}%", fill="black")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def draw_means(means: Tensor, spec: DataSpec) -> list[str]:
    """Return mean images (K, C, H, W) of classes, PNGs in base64, in true colours and of a thumbnail's size."""
    drawn = []
    for image in spec.denormalise(means.detach().float().cpu()):
        picture, buffer = _picture(image), io.BytesIO()
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        picture.save(buffer, "PNG")
        drawn.append(base64.b64encode(buffer.getvalue()).decode())
    return drawn


def sheet_bytes(spec: DataSpec) -> int:
    """Estimate the bytes of a method's picture: pixels are repeated to fill a cell, which PNG packs well."""
    return _FRAME_BYTES + _COLUMNS * _ROWS * spec.channels * min(spec.size, _CELL) ** 2


def _picture(image: Tensor) -> Image.Image:
    levels = (image.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    if len(levels) == 1:
        levels = levels.expand(3, -1, -1)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
