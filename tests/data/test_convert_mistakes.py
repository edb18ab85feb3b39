"""What converting refuses, and what it says then."""

from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from raykd.data.convert import convert
from raykd.data.datasets import DATASETS
from raykd.data.sources import SOURCES
from raykd.errors import SetupError, UsageError
from tests.data.test_convert import draw, write_celeba, write_idx
from tests.data.test_convert_files import every_class, write_folders


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_missing_source_files_say_what_is_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(name, tmp_path, tmp_path / "out")
    assert SOURCES[name].expects in str(caught.value)
    assert ("--download" in str(caught.value)) == SOURCES[name].downloads
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnits"}, "unknown data source 'mnits'; did you mean 'mnist'"),
        ({"splits": ("valid",)}, "unknown split 'valid'"),
        ({"name": "imagenet", "download": True}, "imagenet cannot be downloaded"),
        ({"source_dir": None}, "mnist needs --source DIR .* or --download"),
        ({"attribute": "Male"}, "attribute='Male' is for celeba only"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"name": "mnist", "source_dir": tmp_path, "out_dir": tmp_path / "out"}
    with pytest.raises(UsageError, match=message):
        convert(**(good | arguments))


def test_an_existing_set_is_not_overwritten(tmp_path: Path) -> None:
    write_idx(tmp_path / "source", draw(28, 1), pack=True)
    convert("mnist", tmp_path / "source", tmp_path / "out", splits=("test",))
    with pytest.raises(UsageError, match="holds test-.* already"):
        convert("mnist", tmp_path / "source", tmp_path / "out")
    assert convert("mnist", tmp_path / "source", tmp_path / "out", splits=("train",)).counts == {"train": 7}


def test_an_image_that_the_lists_name_but_the_folder_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_celeba(tmp_path, draw(12, 3, classes=2), monkeypatch)
    (tmp_path / "celeba" / "img_align_celeba" / "train3.png").unlink()
    with pytest.raises(UsageError, match=r"train3.png.* cannot be read"):
        convert("celeba", tmp_path, tmp_path / "out")
    assert list((tmp_path / "out" / "celeba").iterdir()) == []


def test_splits_of_different_classes_are_refused(tmp_path: Path) -> None:
    truth = every_class(16, 3)
    write_folders(tmp_path / "in", {"train": truth["train"]}, ["rose", "tulip"])
    write_folders(tmp_path / "in", {"test": truth["test"]}, ["rose", "lily"])
    with pytest.raises(UsageError, match=r"different classes; only one has \['lily', 'tulip'\]"):
        convert("imagefolder", tmp_path / "in", tmp_path / "out")


def test_downloads_happen_only_on_demand_and_their_failure_is_a_setup_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usps(root: Path, train: bool, download: bool) -> None:
        if download:
            asked.append(root)
            raise OSError("no route to host")
        raise FileNotFoundError(root)

    monkeypatch.setattr(datasets, "USPS", usps)
    with pytest.raises(UsageError, match="usps.bz2"):
        convert("usps", tmp_path, tmp_path / "out")
    assert asked == []
    with pytest.raises(SetupError, match="could not be downloaded: no route to host"):
        convert("usps", None, tmp_path / "out", download=True)
    assert asked[0].parent == tmp_path / "out"
    assert list((tmp_path / "out").iterdir()) == []


def test_every_source_of_a_fixed_set_is_a_known_data_set() -> None:
    assert set(SOURCES) - {"imagefolder"} <= set(DATASETS)
