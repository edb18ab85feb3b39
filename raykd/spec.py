"""DataSpec: all that a data-free method may know of the data. Batch: what a stream yields.

Shapes: B batch, C channels, H W image.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raykd.errors import UsageError


class ClassSubset(NamedTuple):
    """Which of the ``classes`` of a larger set a set has: the labels there, in the order of its own."""

    classes: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class DataSpec:
    """What a network expects at its input and answers at its output.

    ``size`` is the side in pixels of the square network input; ``mean`` and ``std`` hold one
    number per channel, in units of images in [0, 1]. ``pad`` of these pixels on each side are black: images are resized
    to ``interior`` and then padded. Of their shorter side, the centre that is cut out keeps ``crop_pct``. ``part_of``
    tells which classes of a larger set, whose teachers serve too, these are. Where
    ``normalisation_known`` is false nobody has stated mean and std, and those here stand in for them.

    Raises:
        UsageError: if a number is out of range, or mean or std do not have one number per channel.
    """

    name: str
    num_classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    pad: int = 0
    normalisation_known: bool = True
    crop_pct: float = 1.0
    part_of: ClassSubset | None = None

    def __post_init__(self) -> None:
        for field in ("num_classes", "channels", "size"):
            if getattr(self, field) < 1:
                raise UsageError(f"data {self.name!r}: {field} is {getattr(self, field)}; it must be 1 or more")
        for field in ("mean", "std"):
            got = getattr(self, field)
            if len(got) != self.channels:
                raise UsageError(
                    f"data {self.name!r}: {field} {list(got)} has {len(got)} numbers; "
                    f"give one per channel ({self.channels})"
                )
            if not all(map(math.isfinite, got)):
                raise UsageError(f"data {self.name!r}: {field} {list(got)} must be finite, of images in [0, 1]")
        if min(self.std) <= 0:
            raise UsageError(f"data {self.name!r}: std {list(self.std)} must be above 0")
        if not 0 <= 2 * self.pad < self.size:
            raise UsageError(
                f"data {self.name!r}: pad {self.pad} on each side leaves no image in a size of {self.size}, which "
                f"includes it; give 0 to {(self.size - 1) // 2}"
            )
        if not 0.1 <= self.crop_pct <= 1:
            raise UsageError(
                f"data {self.name!r}: crop_pct {self.crop_pct} is the share of an image's shorter side that its centre "
                "keeps; give 0.1 to 1, such as 0.875 (256 pixels, of which 224 are cut out)"
            )

    @property
    def shorter_side(self) -> int:
        """Return the shorter side in pixels of images before their centre, ``interior``, is cut out."""
        return int(self.interior / self.crop_pct)

    @property
    def interior(self) -> int:
        """Return the side in pixels of the images inside the padding."""
        return self.size - 2 * self.pad

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``DataSpec.from_dict`` reads back."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "channels": self.channels,
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "class_names": list(self.class_names),
            **({"pad": self.pad} if self.pad else {}),
            **({} if self.normalisation_known else {"normalisation_known": False}),
            **({"crop_pct": self.crop_pct} if self.crop_pct != 1 else {}),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "DataSpec":
        """Rebuild a spec from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        return cls(
            str(found["name"]),
            int(found["num_classes"]),
            int(found["channels"]),
            int(found["size"]),
            tuple(float(value) for value in found["mean"]),
            tuple(float(value) for value in found["std"]),
            tuple(map(str, found["class_names"])),
            int(found.get("pad", 0)),
            bool(found.get("normalisation_known", True)),
            float(found.get("crop_pct", 1.0)),
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Map images in [0, 1], (..., C, H, W), to network input: (x - mean) / std."""
        return (images - _column(self.mean, images)) / _column(self.std, images)

    def denormalise(self, images: Tensor) -> Tensor:
        """Map network input, (..., C, H, W), to images: x * std + mean. What a generator makes may leave [0, 1]."""
        return images * _column(self.std, images) + _column(self.mean, images)


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    # A plain device copy would wait for the device's queue at every call.
    column = torch.tensor(values, dtype=like.dtype).view(-1, 1, 1)
    return column.to(like.device, non_blocking=True)


class Batch(NamedTuple):
    """What a stream yields, on the device: normalised images, float (B, C, H, W), and labels, int64 (B,).

    B is this worker's share of the global batch, times the batches of the stream in a step.

    ``teacher_logits``, float32 (B, K), are there where a fixed teacher's answers to a fixed set are known beforehand.
    """

    images: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None
