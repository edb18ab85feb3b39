"""Sets of image files as Parquet: class folders and the sets that are kept like them."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import datasets

from raykd.data import parquet
from raykd.data.convert import convert
from raykd.data.datasets import data_spec, load_images
from tests.data.test_sources import Truth, check, draw, md5


def write_folders(root: Path, truth: Truth, names: list[str], test_folder: str = "test") -> Truth:
    """Save images as root/split/class/row.png; return the truth in an image folder's order."""
    ordered: Truth = {}
    for split, (pixels, labels) in truth.items():
        order = sorted(range(len(labels)), key=lambda row, known=labels: (known[row], row))  # type: ignore[misc]
        for name in names:
            (root / (test_folder if split == "test" else split) / name).mkdir(parents=True)
        for row in order:
            folder = root / (test_folder if split == "test" else split) / names[labels[row]]
            Image.fromarray(pixels[row].squeeze()).save(folder / f"{row:03d}.png")
        ordered[split] = (pixels[order], [labels[row] for row in order])
    return ordered


def every_class(size: int, channels: int) -> Truth:
    """Pixels of two classes, so that no class folder is empty."""
    truth = draw(size, channels)
    return {s: (pixels, [row % 2 for row in range(len(pixels))]) for s, (pixels, _) in truth.items()}


def test_places365(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = draw(16, 3, classes=2)
    lists = {"categories": ["/a/airfield 1", "/b/bus_station/indoor 0"]}
    for split, folder, prefix in (("train", "data_256_standard", "/a/"), ("test", "val_256", "")):
        pixels, labels = truth[split]
        (tmp_path / folder / prefix.strip("/")).mkdir(parents=True)
        for row, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / folder / prefix.strip("/") / f"{row:03d}.png")
        lists[split] = [f"{prefix}{row:03d}.png {label}" for row, label in enumerate(labels)]
    names = {"categories": "categories_places365", "train": "places365_train_standard", "test": "places365_val"}
    paths = {key: tmp_path / f"{name}.txt" for key, name in names.items()}
    for key, path in paths.items():
        path.write_text("\n".join(lists[key]) + "\n")
    own = datasets.Places365
    monkeypatch.setattr(own, "_CATEGORIES_META", (paths["categories"].name, md5(paths["categories"])))
    files = {"train-standard": paths["train"], "val": paths["test"]}
    monkeypatch.setattr(own, "_FILE_LIST_META", {split: (path.name, md5(path)) for split, path in files.items()})
    folder_made = convert("places365", tmp_path, tmp_path / "out").folder
    folder_made = folder_made.rename(tmp_path / "out" / "two-places")  # under its own name it has 365 classes
    check(tmp_path / "out", "two-places", truth, 16)
    assert parquet.read_header(parquet.find_files(folder_made, "test")[0]).classes == ("bus_station/indoor", "airfield")


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_folder_becomes_a_set_of_its_own(tmp_path: Path, channels: int) -> None:
    source = tmp_path / "flowers"
    truth = write_folders(source, every_class(16, channels), ["rose", "tulip"], "val")
    converted = convert("imagefolder", source, tmp_path / "out")
    assert converted.name == "flowers"
    check(tmp_path / "out", "flowers", truth, 16)
    spec = data_spec("flowers", data_root=tmp_path / "out")
    assert (spec.channels, spec.size, spec.class_names) == (channels, 16, ("rose", "tulip"))
    unit = truth["train"][0] / 255
    assert spec.mean == pytest.approx(unit.mean((0, 1, 2)), abs=1e-4)
    assert spec.std == pytest.approx(unit.std((0, 1, 2)), abs=1e-4)


def test_image_files_are_stored_byte_for_byte(tmp_path: Path) -> None:
    source = tmp_path / "flowers"
    write_folders(source, every_class(16, 3), ["rose", "tulip"])
    photo = source / "train" / "tulip" / "zz.jpg"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(photo)
    folder = convert("imagefolder", source, tmp_path / "out", set_name="garden").folder
    table = pq.read_table(parquet.find_files(folder, "train")[0])
    assert table["image"].to_pylist()[-1] == photo.read_bytes()
    spec = data_spec("garden", data_root=tmp_path / "out")
    assert (spec.size, spec.channels) == (224, 3)
    small = load_images("garden", "train", data_spec("cifar10"), tmp_path / "out")
    assert small.pixels.shape == (8, 3, 32, 32)
    assert small.pixels[-1, 0].float().mean() == pytest.approx(200, abs=3)
