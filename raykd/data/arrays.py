"""Images that a program holds in memory, written as a data set: once, under a name that tells their content.

Shapes: N images, H W their size, C channels.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from raykd.data import parquet
from raykd.errors import UsageError
from raykd.files import locked, make_folder, writing

Array = np.ndarray[Any, np.dtype[Any]]
_CHANNELS = (1, 3)
_WANTED = "give (images, labels): uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) and N labels; or a torch Dataset"


@dataclass(frozen=True)
class ArrayImages:
    """A split: uint8 pixels (N, H, W, C), int64 labels (N,), and what the classes are called, where it is known."""

    pixels: Array
    labels: Array
    class_names: tuple[str, ...] | None = None


def read_arrays(given: object) -> ArrayImages:
    """Take a pair of arrays or tensors, or a torch Dataset of (image, label), as a split.

    An image of a Dataset is a PIL image, a uint8 array or tensor, or a float one in [0, 1], as torchvision's transforms
    leave it.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(given, Dataset):
        return _read_dataset(given)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UsageError(f"data in memory is a {type(given).__name__}; {_WANTED}")
    images, labels = (_array(part) for part in given)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UsageError(f"images are {images.dtype} {list(images.shape)}; {_WANTED}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise UsageError(f"labels are {labels.dtype} {list(labels.shape)} for {len(images)} images; {_WANTED}")
    return _checked(_channels_last(images), labels.astype(np.int64), None)


def write_arrays(folder: Path, splits: Mapping[str, ArrayImages], classes: Sequence[str] | None = None) -> str:
    """Write splits as a data set below ``folder``, if it is not there; return its name, which tells its content.

    ``classes`` names all classes; else the sets' own names are taken, or the numbers up to the largest label.

    Raises:
        UsageError: if the splits' images differ in shape, or labels go beyond the classes.
        SetupError: if the disk does not take them.
    """
    shapes = {split: images.pixels.shape[1:] for split, images in splits.items()}
    if len(set(shapes.values())) != 1:
        raise UsageError(f"images of the splits differ in (H, W, C): {shapes}; resize them first")
    largest = max(int(images.labels.max()) for images in splits.values())
    own = next((images.class_names for images in splits.values() if images.class_names), None)
    names = tuple(classes or own or map(str, range(max(2, largest + 1))))
    if largest >= len(names):
        raise UsageError(f"label {largest} goes beyond the {len(names)} classes; labels count from 0")
    digest = hashlib.sha256(json.dumps(names).encode())
    for split, images in sorted(splits.items()):
        digest.update(json.dumps([split, images.pixels.shape]).encode())
        digest.update(images.pixels.tobytes())
        digest.update(images.labels.tobytes())
    name = f"images-{digest.hexdigest()[:12]}"
    with writing(f"the images into {folder}"), ExitStack() as held:
        make_folder(folder)
        held.enter_context(locked(folder / f".{name}.lock", wait=True))
        for split, images in splits.items():
            if not parquet.find_files(folder / name, split):
                metadata = {
                    "name": name,
                    "split": split,
                    "count": str(len(images.labels)),
                    "shape": json.dumps(images.pixels.shape[1:]),
                    "encoding": parquet.RAW,
                    "classes": json.dumps(names),
                    "source": "memory",
                }
                parquet.write(folder / name, split, _records(images), metadata)
    return name


def _records(images: ArrayImages) -> Iterator[tuple[bytes, int]]:
    for pixels, label in zip(images.pixels, images.labels, strict=True):
        yield pixels.tobytes(), int(label)


def _read_dataset(dataset: Dataset[Any]) -> ArrayImages:
    pixels, labels = [], []
    count: int = len(dataset)  # type: ignore[arg-type]  # those with a length have one
    for index in range(count):
        try:
            image, label = dataset[index]
            labels.append(int(label))
        except (TypeError, ValueError) as error:
            raise UsageError(f"item {index} of the {type(dataset).__name__} is no (image, label): {error}") from None
        pixels.append(_uint8(image, index))
    if len({each.shape for each in pixels}) > 1:
        raise UsageError(
            f"images of the {type(dataset).__name__} differ in size: resize them, or make a set by "
            "`raykd data imagefolder`"
        )
    if not pixels:
        raise UsageError(f"the {type(dataset).__name__} has no images")
    names = getattr(dataset, "classes", None)
    return _checked(_channels_last(np.stack(pixels)), np.array(labels, np.int64), tuple(map(str, names or ())) or None)


def _uint8(image: Any, index: int) -> Array:
    array = _array(image)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1:
        levels: Array = np.rint(array * 255).astype(np.uint8)
        return levels
    raise UsageError(
        f"image {index} is {array.dtype} {list(array.shape)}: give uint8, or floats in [0, 1], before any normalisation"
    )


def _array(value: Any) -> Array:
    array: Array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return array


def _channels_last(images: Array) -> Array:
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[-1] not in _CHANNELS and images.shape[1] in _CHANNELS:
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in _CHANNELS:
        raise UsageError(f"images of shape {list(images.shape)} have no axis of 1 or 3 channels; {_WANTED}")
    return np.ascontiguousarray(images)


def _checked(
    pixels: Array,
    labels: Array,
    names: tuple[str, ...] | None,
) -> ArrayImages:
    if not len(labels):
        raise UsageError("there are no images")
    if labels.min() < 0:
        raise UsageError(f"label {labels.min()} is below 0; labels count from 0")
    return ArrayImages(pixels, labels, names)
