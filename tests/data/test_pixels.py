from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional

from raykd.data import pixels as pixels_module
from raykd.data.pixels import fit, require_memory
from raykd.errors import UsageError
from raykd.spec import DataSpec
from raykd.tasks.export_card import predict_program


def spec(channels: int, size: int) -> DataSpec:
    return DataSpec("some", 2, channels, size, (0.5,) * channels, (0.5,) * channels)


def random_pixels(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_pixels_that_fit_come_back_unchanged() -> None:
    pixels = random_pixels(3, 3, 8, 8)
    assert torch.equal(fit(pixels, spec(3, 8)), pixels)


@pytest.mark.parametrize("size", [5, 20])
def test_resizing_agrees_with_pil(size: int) -> None:
    pixels = random_pixels(1, 1, 12, 12)
    image = Image.fromarray(pixels[0, 0].numpy())
    resized = image.resize((size, size), Image.Resampling.BILINEAR)
    expected = torch.tensor(list(resized.tobytes())).view(1, 1, size, size)
    assert (fit(pixels, spec(1, size)).int() - expected).abs().max() <= 1


def test_grey_to_rgb_repeats_and_rgb_to_grey_is_luminance() -> None:
    grey = random_pixels(2, 1, 6, 6)
    rgb = fit(grey, spec(3, 6))
    assert all(torch.equal(rgb[:, [channel]], grey) for channel in range(3))
    assert torch.equal(fit(rgb, spec(1, 6)), grey)
    green = torch.tensor([0, 255, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert fit(green, spec(1, 1)).item() == round(0.587 * 255)


def test_oblong_images_lose_their_ends_not_their_proportions() -> None:
    pixels = torch.zeros(1, 1, 8, 16, dtype=torch.uint8)
    pixels[..., 4:12] = 200
    assert fit(pixels, spec(1, 8)).unique().tolist() == [200]
    assert fit(pixels.mT, spec(1, 8)).unique().tolist() == [200]


def test_channels_that_cannot_be_mapped_are_refused() -> None:
    with pytest.raises(UsageError, match="images of 4 channels cannot serve a network of 3"):
        fit(random_pixels(1, 4, 6, 6), spec(3, 6))


def test_more_than_half_of_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "free_memory", lambda: 2 * 2**30)
    fits = 2**30 // (3 * 64 * 64)
    require_memory("big", "train", fits, spec(3, 64))
    with pytest.raises(UsageError, match=r"big/train takes 1\.00 GiB .* 2\.00 GiB of free"):
        require_memory("big", "train", fits + 1, spec(3, 64))


@pytest.mark.parametrize("shape", [(8, 8), (8, 12), (4, 4)])
def test_images_are_resized_and_then_padded_with_black(shape: tuple[int, int]) -> None:
    pixels = random_pixels(3, 1, *shape)
    padded = fit(pixels, replace(spec(1, 12), pad=2))
    assert padded.shape == (3, 1, 12, 12)
    assert torch.equal(padded[..., 2:10, 2:10], fit(pixels, spec(1, 8)))
    border = torch.ones(12, 12, dtype=torch.bool)
    border[2:10, 2:10] = False
    assert not padded[..., border].any()


def test_the_centre_of_a_larger_image_is_cut_out_as_imagenet_is_evaluated() -> None:
    """Resize(256) and CenterCrop(224) of torchvision, in proportion."""
    cut = replace(spec(3, 28), crop_pct=0.875)
    assert cut.shorter_side == 32
    pixels = random_pixels(1, 3, 60, 90)
    expected = functional.center_crop(functional.resize(pixels, [32], antialias=True), [28])
    assert torch.equal(fit(pixels, cut), expected)
    assert not torch.equal(fit(pixels, replace(cut, crop_pct=1.0)), expected)
    with pytest.raises(UsageError, match=r"crop_pct 1\.5 is the share of an image's shorter side"):
        replace(cut, crop_pct=1.5)


def test_an_exported_network_is_shown_the_same_centre() -> None:
    cut = replace(spec(3, 28), crop_pct=0.875)
    assert "ImageOps.fit(image, (28, 28), Image.Resampling.BILINEAR, bleed=0.0625)" in predict_program("onnx", cut)
    levels = np.tile(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (80, 1, 3))
    shown = np.asarray(ImageOps.fit(Image.fromarray(levels), (28, 28), Image.Resampling.BILINEAR, bleed=0.0625))
    ours = fit(torch.from_numpy(levels).permute(2, 0, 1)[None], cut)[0].permute(1, 2, 0).numpy()
    assert np.abs(shown.astype(int) - ours.astype(int)).max() <= 2
