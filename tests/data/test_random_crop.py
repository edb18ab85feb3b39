"""Random parts of image files, against torchvision's RandomResizedCrop."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as theirs

from raykd.data import random_crop
from raykd.data.decode import flatten
from raykd.data.random_crop import DRAWS, choose_box, crop_file, crop_pixels, draw
from raykd.errors import CorruptError
from raykd.spec import DataSpec

HALF = (0.5,) * 3
SPEC = DataSpec("made", 2, 3, 24, HALF, HALF)


def picture(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    levels = np.stack([127 + 120 * np.sin(x / 40), 127 + 120 * np.sin(y / 30), (x + y) * 255 / (height + width)], 2)
    return Image.fromarray(levels.astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def cut(image: bytes, row: torch.Tensor, spec: DataSpec = SPEC) -> torch.Tensor:
    return crop_file(image, spec, row.tolist(), "made", "no advice")


@pytest.mark.parametrize(("height", "width"), [(375, 500), (64, 64), (300, 100)])
def test_parts_are_drawn_as_torchvision_draws_them(height: int, width: int) -> None:
    boxes = [choose_box(height, width, row) for row in draw(5000, 1).tolist()]
    torch.manual_seed(2)
    blank = torch.empty(3, height, width)
    others = [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(5000)]

    def figures(top: int, left: int, h: int, w: int) -> tuple[float, ...]:
        return top / height, left / width, h * w / height / width, math.log(w / h)

    a = torch.tensor([figures(top, left, bottom - top, right - left) for left, top, right, bottom in boxes])
    b = torch.tensor([figures(*box) for box in others])
    torch.testing.assert_close(a.mean(0), b.mean(0), rtol=0, atol=0.025)
    torch.testing.assert_close(a.std(0), b.std(0), rtol=0, atol=0.025)


def test_a_part_is_resized_as_torchvision_resizes_it() -> None:
    image = encoded(picture(70, 90))
    for row in draw(20, 3):
        left, top, right, bottom = choose_box(70, 90, row.tolist())
        if right - left >= 2 * SPEC.size and bottom - top >= 2 * SPEC.size:
            continue  # decoded at half the size
        opened = Image.open(io.BytesIO(image))
        expected = theirs.resized_crop(
            opened, top, left, bottom - top, right - left, [SPEC.size] * 2, InterpolationMode.BILINEAR
        )
        assert torch.equal(cut(image, row)[0], theirs.pil_to_tensor(expected))


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = picture(900, 1200)
    jpeg, png = encoded(whole), encoded(whole, "PNG")  # which is never decoded smaller
    sizes: list[tuple[int, int]] = []

    def look(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return flatten(image)

    monkeypatch.setattr(random_crop, "flatten", look)
    for row in draw(10, 4):
        difference = cut(jpeg, row).float() - cut(png, row).float()
        assert difference.abs().mean() < 4
    assert set(sizes[1::2]) == {(1200, 900)}
    assert max(sizes[::2]) <= (600, 450)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "RGBA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode_have_the_networks_channels(mode: str, channels: int) -> None:
    spec = DataSpec("made", 2, channels, 16, HALF[:channels], HALF[:channels], pad=2)
    image = encoded(picture(40, 50).convert(mode), "JPEG" if mode in ("L", "CMYK") else "PNG")
    found = cut(image, draw(1, 0)[0], spec)
    assert (found.shape, found.dtype) == ((1, channels, 16, 16), torch.uint8)
    assert found[..., :2, :].sum() == 0, "padded with black"


def test_what_no_part_fits_gives_its_centre() -> None:
    assert choose_box(2, 400, [0.999] * DRAWS) == (198, 0, 201, 2)
    assert choose_box(400, 2, [0.999] * DRAWS) == (0, 198, 2, 201)
    assert choose_box(1, 1, [0.5] * DRAWS) == (0, 0, 1, 1)


def test_raw_pixels_are_cut_as_files_are() -> None:
    image = picture(33, 41)
    for row in draw(5, 6):
        assert torch.equal(
            crop_pixels(theirs.pil_to_tensor(image), SPEC, row.tolist()), cut(encoded(image, "PNG"), row)
        )


def test_a_damaged_file_is_named() -> None:
    with pytest.raises(CorruptError, match="made is damaged"):
        cut(encoded(picture(200, 200))[:900], draw(1, 0)[0])
