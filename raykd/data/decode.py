"""Image files as people have them, of any depth, with transparency, turned or animated, as 8-bit grey or RGB.

Shapes: H W image, C channels.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from raykd.errors import CorruptError, RaykdError, UsageError
from raykd.files import describe

_DEEPEST = 65535  # of 16 bits
# PIL opens a photo with a preview inside as two frames; nobody takes that for an animation.
_ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")
_PROGRAM = "EPS"  # which an interpreter would run: no image to be opened unasked
_GREY = ("1", "L", "LA", "La")
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""What undoes each value of EXIF's orientation; 1 is upright."""


class Examined(NamedTuple):
    """A decoded image: uint8 pixels (1, C, H, W), C as the file has it, and what a reader should know of it."""

    pixels: Tensor
    remarks: tuple[str, ...]


def decode(image: bytes, channels: int, name: str, advice: str) -> Tensor:
    """Decode one image file to uint8 pixels (1, C, H, W), C being 1 or 3.

    16 bits become 8, floats in [0, 1] too. What is transparent is composed on white. An image is turned as its EXIF
    data says, and is its first frame where it has several.

    Args:
        image: the file's bytes.
        channels: C; RGB becomes grey by luminance, grey becomes RGB by repetition.
        name: of the file, for messages.
        advice: what a user can do where it is damaged.

    Raises:
        CorruptError: if it is damaged, or no image.
        UsageError: if it is sound, but its values have no known range or its pixels are too many.
    """
    with open_image(image, name, advice) as opened:
        opened.load()
        plain = flatten(opened).convert("RGB" if channels == 3 else "L")
        return upright(plain, opened)


def examine(image: bytes, name: str, advice: str) -> Examined:
    """Decode as ``decode``, to the channels that the file has, and tell what is remarkable about it.

    Raises:
        CorruptError, UsageError: as ``decode``.
    """
    with open_image(image, name, advice) as opened:
        opened.load()
        pixels = upright(flatten(opened), opened)
        remarks = []
        if _is_deep(opened.mode):
            remarks.append("more than 8 bits a pixel, scaled to 8")
        if _is_transparent(opened):
            remarks.append("transparency, composed on white")
        # The last to be asked: some readers count frames by reading them.
        if opened.format in _ANIMATED and getattr(opened, "n_frames", 1) > 1:
            remarks.append("several frames, of which the first is taken")
        return Examined(pixels, tuple(remarks))


@contextmanager
def open_image(image: bytes, name: str, advice: str) -> Iterator[Image.Image]:
    """Open an image file, of which nothing is decoded yet, and say of errors within which image it was.

    Raises:
        CorruptError, UsageError: as ``decode``.
    """
    try:
        with Image.open(io.BytesIO(image)) as opened:
            if opened.format == _PROGRAM:
                raise UnidentifiedImageError
            yield opened
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UsageError(f"{name} has more than the {most:,} pixels that an image may have: make it smaller") from None
    except (RaykdError, MemoryError):
        raise
    except _UnknownRange as error:
        raise UsageError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        what = "it is no image in a format that is known" if image else "it is empty"
        raise CorruptError(f"{name} is damaged ({what}); {advice}") from None
    except Exception as error:  # a wrong byte leads PIL's many readers to errors of any kind
        raise CorruptError(f"{name} is damaged ({describe(error)}); {advice}") from None


class _UnknownRange(ValueError):
    """Values of which nobody can tell what is black and what is white."""


def flatten(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB, without transparency, as it lies in the file."""
    if _is_deep(image.mode):
        return Image.fromarray(_eight_bits(image))
    mode = "L" if image.mode in _GREY else "RGB"
    if not _is_transparent(image):
        return image.convert(mode)
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB").convert(mode)


def _is_deep(mode: str) -> bool:
    return mode == "F" or mode.startswith("I")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Return values of 16 bits, or floats in [0, 1], as 8 bits (H, W)."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    white = 1 if image.mode == "F" else _DEEPEST
    if not (low >= 0 and high <= white):  # nor is a NaN
        raise _UnknownRange(
            f"its values run from {low:g} to {high:g}, where floats in [0, 1] and whole numbers of 8 or 16 bits are "
            "known: scale them to one of these"
        )
    levels = np.rint(values * (255 / white)).astype(np.uint8)
    if _is_transparent(image):
        levels[values == image.info["transparency"]] = 255
    return levels


def _is_transparent(image: Image.Image) -> bool:
    """Tell whether anything of an image can be seen through."""
    if not image.has_transparency_data:
        return False
    if _is_deep(image.mode):
        return bool((np.asarray(image) == image.info["transparency"]).any())
    return image.convert("RGBA").getchannel("A").getextrema()[0] != 255


def upright(plain: Image.Image, opened: Image.Image) -> Tensor:
    """Return pixels (1, C, H, W) of an image, turned as the file says from which it was made."""
    pixels: NDArray[Any] = np.asarray(plain)
    turn = _UPRIGHT.get(_orientation(opened))
    pixels = np.array(turn(pixels) if turn else pixels, order="C")
    return torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], -1)).permute(0, 3, 1, 2)


def _orientation(opened: Image.Image) -> int:
    try:
        return int(opened.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an image is none the worse for what a camera wrote beside it
        return 1
