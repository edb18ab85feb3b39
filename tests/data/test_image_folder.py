"""Which files of a folder belong to a set, and which number a class has."""

import logging
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raykd.data import parquet
from raykd.data.convert import convert
from raykd.data.datasets import Images, data_spec, load_images
from raykd.errors import CorruptError, UsageError

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "


def folders(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Path:
    """Write train/CLASS/N.png and test/CLASS/N.png; the level of grey tells the class: 10, 20, ..."""
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for row in range(count):
                Image.fromarray(np.full((8, 8), 10 * (label + 1), np.uint8)).save(folder / f"{row}.png")
    return root


def loaded(out: Path, name: str) -> Images:
    return load_images(name, "train", data_spec(name, data_root=out), out)


def test_what_is_hidden_is_no_class_and_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folders(tmp_path / "pets")
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "cat/.cache"):
        (source / "train" / hidden).mkdir()
        Image.new("L", (8, 8)).save(source / "train" / hidden / "0.png")
    (source / "train" / "dog" / "._0.png").write_bytes(APPLE_DOUBLE)
    Image.new("L", (8, 8)).save(source / "train" / "dog" / ".0.thumb.png")
    (source / "train" / "dog" / ".DS_Store").write_bytes(b"\0")
    convert("imagefolder", source, tmp_path / "out")
    assert data_spec("pets", data_root=tmp_path / "out").class_names == ("cat", "dog")
    assert loaded(tmp_path / "out", "pets").labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "left out, hidden: " in caplog.text
    assert ".ipynb_checkpoints" in caplog.text


def test_what_macos_keeps_of_an_image_that_was_lost_is_named(tmp_path: Path) -> None:
    source = folders(tmp_path / "pets")
    (source / "train" / "dog" / "._photo.jpg").write_bytes(APPLE_DOUBLE)
    with pytest.raises(CorruptError, match=r"dog/\._photo.jpg .*dog/photo.jpg itself is not there"):
        convert("imagefolder", source, tmp_path / "out")


def test_other_files_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folders(tmp_path / "pets")
    (source / "train" / "cat" / "notes.txt").write_text("mine")
    Image.new("L", (8, 8)).save(source / "train" / "loose.png")
    os.mkfifo(source / "train" / "cat" / "pipe.png")
    assert convert("imagefolder", source, tmp_path / "out").counts == {"train": 6, "test": 6}
    assert f"left out, without the ending of an image: {source}/train/cat/notes.txt" in caplog.text
    assert f"left out, in no folder of a class: {source}/train/loose.png" in caplog.text


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = tuple(str(number) for number in range(1, 11))
    convert("imagefolder", folders(tmp_path / "digits10", names, 1), tmp_path / "out")
    assert data_spec("digits10", data_root=tmp_path / "out").class_names == names
    images = loaded(tmp_path / "out", "digits10")
    assert images.pixels[:, 0, 0, 0].tolist() == [10 * (label + 1) for label in images.labels.tolist()]
    assert "labels 0, 1, ... are 1, 2, 3, in the order of the numbers; torchvision's ImageFolder has 1, 10, 2" in (
        caplog.text
    )
    caplog.clear()
    convert("imagefolder", folders(tmp_path / "padded", ("01", "02", "10"), 1), tmp_path / "out")
    convert("imagefolder", folders(tmp_path / "mixed", ("10", "9", "b"), 1), tmp_path / "out")
    assert data_spec("mixed", data_root=tmp_path / "out").class_names == ("10", "9", "b")
    assert caplog.text == ""


def test_two_numbers_are_in_their_order_too(tmp_path: Path) -> None:
    convert("imagefolder", folders(tmp_path / "two", ("2", "10"), 1), tmp_path / "out")
    assert data_spec("two", data_root=tmp_path / "out").class_names == ("2", "10")


def test_classes_that_differ_in_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert("imagefolder", folders(tmp_path / "pets", ("Cat", "cat")), tmp_path / "out")
    assert "class folders Cat, cat differ in case alone, and are taken for 2 classes" in caplog.text
    source = folders(tmp_path / "other")
    (source / "test" / "cat").rename(source / "test" / "Cat")
    with pytest.raises(UsageError, match=r"only train has \['cat'\], only test has \['Cat'\], which differ in case"):
        convert("imagefolder", source, tmp_path / "out")


def test_the_same_name_in_two_spellings_is_one_class(tmp_path: Path) -> None:
    source = folders(tmp_path / "flowers", ("aster", "béb"))
    apart = unicodedata.normalize("NFD", "béb")
    (source / "test" / "béb").rename(source / "test" / apart)
    convert("imagefolder", source, tmp_path / "out")
    assert data_spec("flowers", data_root=tmp_path / "out").class_names == ("aster", "béb")


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    source = folders(tmp_path / "pets")
    (source / "train" / "emu").mkdir()
    with pytest.raises(
        UsageError, match=r"no image in .*train/emu \(endings that are read: .*\.gif.*remove the folder"
    ):
        convert("imagefolder", source, tmp_path / "out")


def test_links_that_lead_back_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folders(tmp_path / "pets")
    (source / "train" / "emu").symlink_to(source / "train")
    (source / "train" / "fox").symlink_to(source)
    (source / "train" / "dog" / "again").symlink_to("..")
    (source / "train" / "dog" / "more").mkdir()
    (source / "train" / "dog" / "more" / "back").symlink_to("..")
    (source / "test" / "cat" / "self").symlink_to("self")
    elsewhere = (source / "train" / "cat").rename(tmp_path / "elsewhere")
    (source / "train" / "cat").symlink_to(elsewhere)
    convert("imagefolder", source, tmp_path / "out")
    assert loaded(tmp_path / "out", "pets").labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "left out, links that lead back to a folder around them: " in caplog.text


def test_an_image_that_is_a_broken_link_is_named(tmp_path: Path) -> None:
    source = folders(tmp_path / "pets")
    (source / "train" / "dog" / "gone.png").symlink_to("nowhere")
    with pytest.raises(UsageError, match="dog/gone.png cannot be read .*No such file"):
        convert("imagefolder", source, tmp_path / "out")


def test_names_of_files_do_not_decide_what_is_in_them(tmp_path: Path) -> None:
    source = folders(tmp_path / "pets")
    (source / "train" / "cat" / "0.png").rename(source / "train" / "cat" / "0.JPG")
    convert("imagefolder", source, tmp_path / "out")
    (source / "train" / "dog" / "9.png").write_text("these are my notes")
    with pytest.raises(CorruptError, match=r"dog/9.png is damaged \(it is no image"):
        convert("imagefolder", source, tmp_path / "other")


def test_what_was_changed_in_images_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = folders(tmp_path / "pets")
    clear = np.zeros((8, 8, 4), np.uint8)
    for row in range(2):
        Image.fromarray(clear).save(source / "train" / "dog" / f"clear{row}.png")
    frames = [Image.new("L", (8, 8), level) for level in (0, 255)]
    frames[0].save(source / "train" / "dog" / "film.gif", save_all=True, append_images=frames[1:])
    convert("imagefolder", source, tmp_path / "out")
    images = loaded(tmp_path / "out", "pets")
    assert images.pixels[-3:, 0, 0, 0].tolist() == [255, 255, 0]
    assert f"2 images have transparency, composed on white: first {source}/train/dog/clear0.png" in caplog.text
    assert f"1 image has several frames, of which the first is taken: {source}/train/dog/film.gif" in caplog.text


def test_shape_and_constants_are_of_images_as_they_are_seen(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "turned" / split / "a"
        folder.mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.full((6, 9), 65535 * 3 // 5, np.uint16)).save(folder / "0.png", exif=exif)
    convert("imagefolder", tmp_path / "turned", tmp_path / "out")
    header = parquet.read_header(parquet.find_files(tmp_path / "out" / "turned", "train")[0])
    assert header.shape == (9, 6, 1)
    assert header.mean == (0.6,)


@pytest.mark.parametrize("name", ["50%", "a#b", "what?", "my pets", "blüten", "%20", "a:b", "x=y&z", "犬"])
def test_a_set_may_have_any_name_that_is_text(tmp_path: Path, name: str) -> None:
    source = folders(tmp_path / name, ("a%20", "é #?"))
    assert convert("imagefolder", source, tmp_path / "out").name == name
    images = loaded(tmp_path / "out", name)
    assert torch.equal(images.labels, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert data_spec(name, data_root=tmp_path / "out").class_names == ("a%20", "é #?")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    latin = os.fsdecode(b"bl\xfcten")
    with pytest.raises(UsageError, match=r"bl\\xfcten: the name is no UTF-8 text.*rename"):
        convert("imagefolder", folders(tmp_path / latin), tmp_path / "out")
    with pytest.raises(UsageError, match=r"bl\\xfcten/flowers: the name is no UTF-8 text"):
        convert("imagefolder", folders(tmp_path / "flowers"), tmp_path / latin)
    with pytest.raises(UsageError, match=r"train/bl\\xfcten: the name of a class is no UTF-8 text"):
        convert("imagefolder", folders(tmp_path / "others", ("aster", latin)), tmp_path / "out")
    source = folders(tmp_path / "files")
    (source / "train" / "cat" / "0.png").rename(source / "train" / "cat" / f"{latin}.png")
    assert convert("imagefolder", source, tmp_path / "out").counts["train"] == 6
    (source / "train" / "cat" / f"{latin}.png").write_bytes(b"")
    with pytest.raises(CorruptError, match=r"cat/bl\\xfcten.png is damaged"):
        convert("imagefolder", source, tmp_path / "more")


@pytest.mark.parametrize("name", ["digits", ".hidden"])
def test_names_by_which_no_recipe_could_ask_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' .*rename the folder"):
        convert("imagefolder", folders(tmp_path / name), tmp_path / "out")
