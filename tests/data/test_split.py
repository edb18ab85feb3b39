"""What becomes of images on their way into a set, also of those that no sample saw."""

from pathlib import Path

import pytest
from PIL import Image

from raykd.data import split as split_module
from raykd.data.convert import convert
from raykd.data.datasets import data_spec
from raykd.errors import CorruptError
from tests.data.test_image_folder import folders


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("split", ["train", "test"])
def test_damage_beyond_the_sample_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None, split: str
) -> None:
    monkeypatch.setattr(split_module, "SAMPLED", 2)
    source = folders(tmp_path / "pets", count=9)
    path = source / split / "dog" / "7.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CorruptError, match=f"{split}/dog/7.png is damaged .*restore it, or remove it"):
        convert("imagefolder", source, tmp_path / "out", size=size)
    assert list(tmp_path.glob("out/*/*")) == []


def test_colours_beyond_a_grey_sample_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(split_module, "SAMPLED", 2)
    source = folders(tmp_path / "pets", count=9)
    Image.new("RGB", (8, 8), "red").save(source / "train" / "dog" / "7.png")
    convert("imagefolder", source, tmp_path / "out")
    assert data_spec("pets", data_root=tmp_path / "out").channels == 1
    assert f"1 image has colours, where all that were sampled are grey: taken as grey: {source}" in caplog.text
