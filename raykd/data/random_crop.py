"""A random part of an image, taken from its file and resized to the network's input: ImageNet's augmentation.

As torchvision's RandomResizedCrop: a part of 8 to 100 % of the area, each share equally likely, at an aspect of 3:4 to
4:3, uniform in its logarithm, drawn again where it does not fit. Each image has draws of its own, so that who decodes
it, and when, changes nothing. A JPEG of which much more is wanted than the input takes is decoded at a half, a quarter
or an eighth of its size, which libjpeg does in much less time.

Shapes: C channels, H W image, S side of the part.
"""

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from raykd.data.decode import flatten, open_image, upright
from raykd.spec import DataSpec

_TRIES = 10
_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
DRAWS = 2 * _TRIES + 2
"""Numbers in [0, 1) that an image takes."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, the latter two exclusive."""


def draw(count: int, seed: int) -> Tensor:
    """Return the draws of ``count`` images, float64 (count, DRAWS)."""
    return torch.rand(count, DRAWS, generator=Generator().manual_seed(seed), dtype=torch.float64)


def choose_box(height: int, width: int, draws: Sequence[float]) -> Box:
    """Return the part of an image (H, W) that its draws choose; the centre where none of ten fits."""
    low, high = (math.log(end) for end in _ASPECT)
    for attempt in range(_TRIES):
        area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[2 * attempt])
        aspect = math.exp(low + (high - low) * draws[2 * attempt + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws[-2] * (width - w + 1)), int(draws[-1] * (height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < _ASPECT[0]:
        h = min(height, round(width / _ASPECT[0]))
    elif width / height > _ASPECT[1]:
        w = min(width, round(height * _ASPECT[1]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop_file(image: bytes, spec: DataSpec, draws: Sequence[float], name: str, advice: str) -> Tensor:
    """Return a part of an image file as uint8 (1, C, S, S), S being ``spec.size``, its padding included.

    Args:
        image: the file's bytes.
        spec: of the network's input.
        draws: of this image.
        name: of the file, for messages.
        advice: what a user can do where it is damaged.

    Raises:
        CorruptError, UsageError: as ``decode``.
    """
    with open_image(image, name, advice) as opened:
        width, height = opened.size
        box = choose_box(height, width, draws)
        side = spec.interior
        # The size at which the part still has as many pixels as are wanted; other formats take no notice.
        opened.draft(None, (-(-width * side // (box[2] - box[0])), -(-height * side // (box[3] - box[1]))))
        opened.load()
        return _finished(upright(_cut(flatten(opened), box, (height, width), spec), opened), spec)


def crop_pixels(pixels: Tensor, spec: DataSpec, draws: Sequence[float]) -> Tensor:
    """Return a part of raw pixels, uint8 (C, H, W), as ``crop_file`` returns it."""
    channels, height, width = pixels.shape
    image = Image.fromarray(pixels[0].numpy() if channels == 1 else pixels.permute(1, 2, 0).contiguous().numpy())
    part = _cut(image, choose_box(height, width, draws), (height, width), spec)
    return _finished(upright(part, image), spec)


def _cut(image: Image.Image, box: Box, size: tuple[int, int], spec: DataSpec) -> Image.Image:
    """Cut the box, which is of an image of ``size`` (H, W), out of one that may have been decoded smaller."""
    image = image.convert("RGB" if spec.channels == 3 else "L")
    target = (spec.interior, spec.interior)
    if image.size == size[::-1]:
        # Cut first: what lies outside of the part has no share in its pixels, as in torchvision.
        return image.crop(box).resize(target, Image.Resampling.BILINEAR)
    across, down = image.width / size[1], image.height / size[0]
    smaller = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return image.resize(target, Image.Resampling.BILINEAR, smaller)


def _finished(pixels: Tensor, spec: DataSpec) -> Tensor:
    return F.pad(pixels, (spec.pad,) * 4) if spec.pad else pixels
