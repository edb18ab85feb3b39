"""Images in memory become a data set: whatever layout they have, once, under a name that tells their content."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from raykd.data.arrays import read_arrays, write_arrays
from raykd.data.datasets import data_spec, load_images
from raykd.errors import SetupError, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


class Listed(Dataset[Any]):
    """A Dataset of what it is given."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


UNIT = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(
    "given",
    [
        (PIXELS, LABELS),
        [torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.from_numpy(LABELS).int()],
        (PIXELS.transpose(0, 3, 1, 2), LABELS.tolist()),
        Listed([(Image.fromarray(pixels), label) for pixels, label in zip(PIXELS, LABELS, strict=True)]),
        Listed([(image, torch.tensor(label)) for image, label in zip(UNIT, LABELS, strict=True)]),
        Listed(list(zip(PIXELS, LABELS, strict=True))),
    ],
)
def test_every_layout_is_read_back(given: Any, tmp_path: Path) -> None:
    name = write_arrays(tmp_path, {"test": read_arrays(given)})
    spec = data_spec(name, data_root=tmp_path)
    assert (spec.num_classes, spec.channels, spec.size, spec.class_names) == (3, 3, 5, ("0", "1", "2"))
    images = load_images(name, "test", spec, tmp_path)
    assert torch.equal(images.pixels.permute(0, 2, 3, 1), torch.from_numpy(PIXELS))
    assert images.labels.tolist() == LABELS.tolist()


def test_a_grey_set_is_written_once_and_another_has_another_name(tmp_path: Path) -> None:
    splits = {"train": read_arrays((PIXELS[..., 0], LABELS)), "test": read_arrays((PIXELS[..., 1], LABELS))}
    name = write_arrays(tmp_path, splits, ["a", "b", "c", "d"])
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / name).iterdir()}
    assert [path.name.partition("-")[0] for path in sorted(files)] == ["test", "train"]
    assert data_spec(name, data_root=tmp_path).class_names == ("a", "b", "c", "d")
    assert write_arrays(tmp_path, splits, ["a", "b", "c", "d"]) == name
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / name).iterdir()}
    others = {
        write_arrays(tmp_path, splits),
        write_arrays(tmp_path, {"train": splits["test"], "test": splits["train"]}),
        write_arrays(tmp_path, {"test": splits["test"]}),
    }
    assert len(others - {name}) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PIXELS, "data in memory is a ndarray; give .images, labels."),
        ((PIXELS.astype(float), LABELS), r"images are float64 \[6, 5, 5, 3\]; give"),
        ((PIXELS, LABELS[:5]), r"labels are int64 \[5\] for 6 images"),
        ((PIXELS, LABELS.astype(float)), r"labels are float64 \[6\]"),
        ((PIXELS[..., :2], LABELS), "no axis of 1 or 3 channels"),
        ((PIXELS, LABELS - 1), "label -1 is below 0"),
        ((PIXELS[:0], LABELS[:0]), "there are no images"),
        (Listed([]), "the Listed has no images"),
        (Listed([PIXELS[0]]), "item 0 of the Listed is no .image, label."),
        (Listed([(UNIT[0] * 2 - 1, 0)]), r"image 0 is float32 .*before any normalisation"),
        (Listed([(PIXELS[0], 0), (PIXELS[0][:4], 1)]), "images of the Listed differ in size"),
    ],
)
def test_what_is_no_set_of_images_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_arrays(given)


def test_splits_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    whole = read_arrays((PIXELS, LABELS))
    with pytest.raises(UsageError, match="images of the splits differ"):
        write_arrays(tmp_path, {"train": whole, "test": read_arrays((PIXELS[..., 0], LABELS))})
    with pytest.raises(UsageError, match="label 2 goes beyond the 2 classes"):
        write_arrays(tmp_path, {"test": whole}, ["a", "b"])


def test_a_disk_that_takes_no_images_is_named() -> None:
    with pytest.raises(SetupError, match="could not write the images into /proc/nowhere .*the same command"):
        write_arrays(Path("/proc/nowhere"), {"train": read_arrays((PIXELS, LABELS))})
