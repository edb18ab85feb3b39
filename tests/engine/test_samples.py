"""The sheet of synthetic images is a picture that a person can read."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from raykd.engine.samples import draw_samples, sample_sheet
from raykd.spec import DataSpec
from tests.methods.toy import made_batches, made_method, made_teacher

CELL, CAPTION, GAP = 96, 16, 4


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image.convert("RGB")


def cells(sheet: Image.Image, count: int) -> list[np.ndarray]:
    corners = [(GAP + i % 10 * (CELL + GAP), GAP + i // 10 * (CELL + CAPTION + GAP)) for i in range(count)]
    return [np.array(sheet.crop((x, y, x + CELL, y + CELL))) for x, y in corners]


def spec(channels: int, names: tuple[str, ...] = ()) -> DataSpec:
    return DataSpec("made", 4, channels, 8, (0.5,) * channels, (0.25,) * channels, names)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_has_its_cell(channels: int) -> None:
    images = torch.randn(40, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    sheet = opened(draw_samples(images, torch.randn(40, 4), spec(channels), 40))
    assert sheet.size == (10 * (CELL + GAP) + GAP, 4 * (CELL + CAPTION + GAP) + GAP)
    drawn = cells(sheet, 40)
    assert len({cell.tobytes() for cell in drawn}) == 40
    for cell, image in zip(drawn, images, strict=True):
        unit = image * 0.25 + 0.5
        expected = (255 * unit.clamp(0, 1)).expand(3, 8, 8).permute(1, 2, 0).numpy().repeat(12, 0).repeat(12, 1)
        assert np.abs(cell - expected).max() <= 0.51


def test_captions_tell_the_label() -> None:
    images = torch.zeros(2, 1, 8, 8)
    png = draw_samples(images, torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]]), spec(1), 40)
    sheet = opened(png)
    below = [np.array(sheet.crop((x, GAP + CELL, x + CELL, GAP + CELL + CAPTION))) for x in (GAP, 2 * GAP + CELL)]
    assert all((strip < 128).any() for strip in below)
    assert not np.array_equal(below[0], below[1])


def test_real_images_are_called_so() -> None:
    images, logits = torch.zeros(2, 1, 8, 8), torch.tensor([[9.0, 0, 0, 0]]).repeat(2, 1)
    sheet = opened(draw_samples(images, logits, spec(1), 1))
    strips = [np.array(sheet.crop((x, GAP + CELL, x + CELL, GAP + CELL + CAPTION))) for x in (GAP, 2 * GAP + CELL)]
    assert (strips[1] < 128).sum() > (strips[0] < 128).sum()


def test_few_images_make_a_low_sheet() -> None:
    sheet = opened(draw_samples(torch.randn(3, 1, 8, 8), torch.randn(3, 4), spec(1), 40))
    assert sheet.height == CELL + CAPTION + 2 * GAP


@pytest.mark.parametrize("names", [("\u732b",) * 4, ("<b>&",) * 4, ("a" * 300,) * 4, ("",) * 4])
def test_any_class_name_can_be_drawn(names: tuple[str, ...]) -> None:
    opened(draw_samples(torch.randn(2, 1, 8, 8), torch.randn(2, 4), spec(1, names), 40))


def test_flat_and_non_finite_images_do_not_stop_a_run() -> None:
    images = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), torch.nan)])
    opened(draw_samples(images, torch.zeros(2, 4), spec(1), 40))


def test_a_method_without_images_has_no_sheet() -> None:
    assert sample_sheet(made_method("kd"), made_teacher(), {}) is None
    method = made_method("dafl")
    first, again = sample_sheet(method, made_teacher(), {}), sample_sheet(method, made_teacher(), {})
    assert first is not None
    assert first == again
    assert opened(first).height == 4 * (CELL + CAPTION + GAP) + GAP


def test_images_of_another_domain_are_the_last_row() -> None:
    method = made_method("mosaickd")
    batches = made_batches(method, 0)
    sheet = sample_sheet(method, made_teacher(), batches)
    assert sheet is not None
    rows = 4 + -(-min(10, len(batches["patches"].images)) // 10)
    assert opened(sheet).height == rows * (CELL + CAPTION + GAP) + GAP
