"""Image files of every kind that people have, as 8-bit pixels."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from raykd.data.decode import decode, examine
from raykd.errors import CorruptError, UsageError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def pixels(file: bytes, channels: int = 3) -> NDArray[np.uint8]:
    """Decoded pixels (H, W, C)."""
    found: NDArray[np.uint8] = decode(file, channels, "x.png", "mend it")[0].permute(1, 2, 0).numpy()
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_images_are_as_pil_has_them(channels: int) -> None:
    for array in (COLOUR, GREY):
        image = Image.fromarray(array)
        expected = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(6, 9, channels)
        assert np.array_equal(pixels(encoded(image), channels), expected)
        assert examine(encoded(image), "x", "").remarks == ()


@pytest.mark.parametrize(("image_format", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_16_bits_become_the_nearest_of_8(image_format: str, dtype: str) -> None:
    deep = (GREY.astype(np.uint16) * 257).astype(dtype)
    deep[0, :3] = [0, 65535, 257 * 100 + 128]
    image = Image.fromarray(deep)
    assert image.mode == ("I;16B" if dtype == ">u2" else "I;16")
    found = pixels(encoded(image, image_format), 1)[..., 0]
    assert np.array_equal(found[1:], GREY[1:])
    assert found[0, :3].tolist() == [0, 255, 100]
    assert examine(encoded(image, image_format), "x", "").remarks == ("more than 8 bits a pixel, scaled to 8",)


def test_16_bits_with_a_transparent_level_are_composed_on_white() -> None:
    deep = np.array([[0, 1000], [30000, 65535]], np.uint16)
    found = pixels(encoded(Image.fromarray(deep), transparency=1000), 1)[..., 0]
    assert found.tolist() == [[0, 255], [117, 255]]


def test_floats_in_0_to_1_become_8_bits_and_others_are_refused() -> None:
    unit = GREY.astype(np.float32) / 255
    assert np.array_equal(pixels(encoded(Image.fromarray(unit), "TIFF"), 1)[..., 0], GREY)
    for wrong in (unit * 255, unit - 1, np.full_like(unit, np.nan)):
        with pytest.raises(UsageError, match=r"x.png: its values run from .*floats in \[0, 1\].*scale them"):
            pixels(encoded(Image.fromarray(wrong), "TIFF"), 1)


def test_whole_numbers_beyond_16_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="its values run from 0 to 70000"):
        pixels(encoded(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"))


def test_transparency_is_composed_on_white() -> None:
    strokes = np.zeros((2, 2, 4), np.uint8)
    strokes[0, :, 3] = [255, 128]
    seen = [[0, 127], [255, 255]]
    for image in (Image.fromarray(strokes), Image.fromarray(strokes[..., 2:].copy())):  # RGBA and LA
        file = encoded(image)
        assert pixels(file, 1)[..., 0].tolist() == seen
        assert examine(file, "x", "").remarks == ("transparency, composed on white",)
    assert examine(encoded(Image.fromarray(strokes[..., 2:].copy())), "x", "").pixels.shape == (1, 1, 2, 2)


def test_a_palette_with_a_transparent_colour_is_composed_on_white() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    for transparency in (1, b"\xff\x00"):
        file = encoded(image, transparency=transparency)
        assert pixels(file).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_an_alpha_channel_that_hides_nothing_changes_nothing() -> None:
    opaque = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    assert np.array_equal(pixels(encoded(Image.fromarray(opaque))), COLOUR)
    assert examine(encoded(Image.fromarray(opaque)), "x", "").remarks == ()


def test_one_bit_and_four_inks() -> None:
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    assert np.array_equal(pixels(encoded(bits), 1)[..., 0], np.where(GREY > 127, 255, 0))
    inks = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    red, green, blue = pixels(encoded(inks, "TIFF"))[0, 0].tolist()
    assert red > 200 > 50 > max(green, blue)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_images_are_turned_as_their_camera_says(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(COLOUR)
    upright.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    assert np.array_equal(pixels(encoded(Image.fromarray(COLOUR), image_format, exif=exif)), expected)


def test_a_broken_note_of_the_camera_does_not_matter() -> None:
    file = encoded(Image.fromarray(COLOUR), "JPEG", exif=b"Exif\0\0nonsense")
    assert pixels(file).shape == (6, 9, 3)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(image_format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("black", "white", "black")]
    file = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    assert pixels(file).max() == 0
    assert examine(file, "x", "").remarks == ("several frames, of which the first is taken",)


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (b"", "it is empty"),
        (b"these are my notes", "it is no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "it is no image"),
        (encoded(Image.fromarray(COLOUR))[:60], ""),
        (encoded(Image.fromarray(COLOUR), "JPEG")[:-40], "truncated"),
        (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF")[:150], ""),
    ],
)
def test_damage_names_the_file_and_says_what_to_do(file: bytes, what: str) -> None:
    with pytest.raises(CorruptError, match=rf"x.png is damaged \(.*{what}.*\); mend it") as caught:
        pixels(file)
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UsageError, match="x.png has more than the 40 pixels"):
        pixels(encoded(Image.fromarray(COLOUR)))
