"""Synthetic sets on the disk: images of generators as 8-bit Parquet files, written one whole file at a time.

Generators work in the normalised input space of their teacher, and what they make leaves the range of real pixels,
so clipping it there would destroy it. Each channel is stored as u = 255 (x - low) / (high - low) instead, and the
files name as their mean and std what undoes that: (u / 255 - mean) / std = x, up to half a level.

Columns: those of raykd.data.parquet, and ``teacher_logits`` (list of float32), of the stored pixels.

Shapes: N images, C channels, H W image, K classes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.data import parquet
from raykd.data.datasets import DATASETS
from raykd.errors import CorruptError, SetupError, UsageError
from raykd.files import MANIFEST, describe, locked, make_folder, replacing
from raykd.spec import DataSpec

_TAIL = 5e-4  # of the sample's values lie below the range, and as many above, before the margin
_MARGIN = 0.02  # of the range, on either side
_NARROWEST = 1e-3  # a channel without contrast would divide by zero


@dataclass(frozen=True)
class PixelRange:
    """What of the normalised space the 256 levels cover, per channel."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, sample: Tensor) -> "PixelRange":
        """Return the range of a sample of values (C, M), rare extremes left out."""
        tails = torch.tensor([_TAIL, 1 - _TAIL], device=sample.device)
        low, high = torch.stack([torch.quantile(channel, tails) for channel in sample.float()], dim=1).double()
        margin = ((high - low) * _MARGIN).clamp(min=_NARROWEST / 2)
        return cls(tuple((low - margin).tolist()), tuple((high + margin).tolist()))

    @property
    def mean(self) -> tuple[float, ...]:
        """Return the mean to normalise unit pixels with."""
        return tuple(-low / (high - low) for low, high in zip(self.low, self.high, strict=True))

    @property
    def std(self) -> tuple[float, ...]:
        """Return the std to normalise unit pixels with."""
        return tuple(1 / (high - low) for low, high in zip(self.low, self.high, strict=True))

    def store(self, images: Tensor) -> Tensor:
        """Map normalised images (N, C, H, W) to uint8 pixels, clipped where they leave the range."""
        low = torch.tensor(self.low, device=images.device).view(-1, 1, 1)
        high = torch.tensor(self.high, device=images.device).view(-1, 1, 1)
        return ((images.float() - low) * (255 / (high - low))).round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class SyntheticFolder:
    """A set of ``rows`` images in the making: which files it will have, and which are there.

    ``facts`` are what makes it this set and no other (bank, teacher, seed): they stand in every file's metadata,
    and a file with others is refused. ``data_opened`` is what was opened, by role, for the generators that make it.
    """

    folder: Path
    spec: DataSpec
    rows: int
    facts: Mapping[str, str]
    data_opened: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def files(self) -> dict[Path, range]:
        """Return all files with their rows."""
        row_bytes = self.spec.channels * self.spec.size**2 + 4 * self.spec.num_classes
        step = max(1, parquet.SHARD_BYTES // row_bytes)
        starts = range(0, self.rows, step)
        return {
            self.folder / f"train-{index:05d}-of-{len(starts):05d}.parquet": range(first, min(first + step, self.rows))
            for index, first in enumerate(starts)
        }

    def present(self) -> list[Path]:
        """Return the files that are there already.

        Raises:
            UsageError: if the folder holds anything but files of this set.
            CorruptError: if one of them is damaged.
        """
        if self.folder.name in DATASETS:
            raise UsageError(f"{self.folder} is called as the real set {self.folder.name!r}; choose another folder")
        found = sorted(self.folder.glob("[!.]*"))
        others = [path.name for path in found if path not in self.files and path.name != MANIFEST]
        present = [path for path in found if path in self.files]
        if others or (found and not present):
            raise UsageError(
                f"{self.folder} holds something else than this set of {self.rows:,} images "
                f"({', '.join(others[:3]) or MANIFEST}); choose another folder, or empty it"
            )
        for path in present:
            self._check(path)
        return present

    def check(self, present: list[Path]) -> None:
        """Read files that no manifest vouches for yet.

        Raises:
            CorruptError: if one of them is damaged.
        """
        for path in present:
            parquet.check(path)

    def _check(self, path: Path) -> None:
        metadata = parquet.read_metadata(path)
        expected = {**self._shape, **self.facts}
        for key, value in expected.items():
            if metadata.get(key) != value:
                raise UsageError(
                    f"{self.folder} holds a set whose {key} is {metadata.get(key)!r}, not {value!r}; "
                    "choose another folder, or empty it"
                )

    @property
    def _shape(self) -> dict[str, str]:
        return {
            "synthetic": "true",
            "count": str(self.rows),
            "shape": json.dumps([self.spec.size, self.spec.size, self.spec.channels]),
        }

    def read_range(self, path: Path) -> PixelRange:
        """Return the range that a file was stored with.

        Raises:
            CorruptError: if it names none.
        """
        try:
            bounds = json.loads(parquet.read_metadata(path)["pixel_range"])
            return PixelRange(tuple(bounds["low"]), tuple(bounds["high"]))
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptError(f"{path} names no pixel range ({error!r}); delete it and run this again") from error

    def write(self, path: Path, pixels: Tensor, labels: Tensor, logits: Tensor, bounds: PixelRange) -> None:
        """Write one file: uint8 pixels (N, C, H, W), int64 labels (N,), float32 teacher logits (N, K).

        Raises:
            SetupError: if the disk does not take it.
        """
        metadata = {
            "name": self.folder.resolve().name,
            "split": "train",
            **self._shape,
            "encoding": parquet.RAW,
            "classes": json.dumps(self.spec.class_names or [str(label) for label in range(self.spec.num_classes)]),
            "mean": json.dumps(bounds.mean),
            "std": json.dumps(bounds.std),
            "pixel_range": json.dumps({"low": bounds.low, "high": bounds.high}),
            "source": "raykd synthesize",
            "order": "every class once among as many rows as there are classes, in random order",
            "data_opened": json.dumps(dict(self.data_opened)),
            **self.facts,
        }
        rows = pixels.permute(0, 2, 3, 1).contiguous().numpy().reshape(len(pixels), -1)
        columns = {
            "image": pa.Array.from_buffers(pa.binary(), len(rows), [None, _offsets(rows), pa.py_buffer(rows)]),
            "label": pa.array(labels.numpy(), pa.int64()),
            "teacher_logits": pa.ListArray.from_arrays(
                pa.Array.from_buffers(pa.int32(), len(logits) + 1, [None, _offsets(logits.numpy())]),
                pa.array(logits.float().numpy().reshape(-1), pa.float32()),
            ),
        }
        try:
            with replacing(path) as staging:
                parquet.write_file(staging, columns, metadata)
        except OSError as error:
            raise SetupError(
                f"{path} could not be written ({describe(error)}); free some space and run the same command: "
                "it goes on behind the last whole file"
            ) from error


def _offsets(rows: NDArray[Any]) -> pa.Buffer:
    """Return where each row of a matrix begins, and the last ends, in values."""
    count, width = rows.shape
    return pa.py_buffer(np.arange(0, (count + 1) * width, width, dtype=np.int32))


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, for this process.

    Raises:
        UsageError: if another process is writing there.
        SetupError: if the folder cannot be made.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file; give a folder that is empty or not there yet")
    try:
        make_folder(folder)
    except OSError as error:
        raise SetupError(f"{folder} cannot be used as a folder: {describe(error)}") from error
    busy = f"{folder} is in use by another process; wait for it, or choose another"
    with locked(folder, wait=False, busy=busy):
        yield
