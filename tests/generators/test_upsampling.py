"""The product forms of the convolutions against torch's own, gradients included."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.generators.upsampling import thin_conv3x3, upsampled_conv3x3

Convolution = Callable[[Tensor, Tensor], Tensor]

CASES = [(upsampled_conv3x3, True), (thin_conv3x3, False)]


def tensors(dtype: torch.dtype, *leading: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(*leading, 3, 5, 7, 6, dtype=dtype, generator=rng, requires_grad=True)
    weight = torch.randn(*leading, 4, 6, 3, 3, dtype=dtype, generator=rng, requires_grad=True)
    return images, weight


def stock(images: Tensor, weight: Tensor, upsample: bool) -> Tensor:
    x = images.permute(0, 3, 1, 2)
    x = F.interpolate(x, scale_factor=2) if upsample else x
    return F.conv2d(x, weight, padding=1).permute(0, 2, 3, 1)


@pytest.fixture(params=[False, True], ids=["eager", "compiling"])
def compiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take both ways through the module, without the wait for a compiler."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(("function", "upsample"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_equals_stock_convolution(function: Convolution, upsample: bool, dtype: torch.dtype, tolerance: float) -> None:
    images, weight = tensors(dtype)
    got, expected = function(images, weight), stock(images, weight, upsample)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    cotangent = torch.randn_like(expected)
    pairs = zip(
        torch.autograd.grad(got, (images, weight), cotangent),
        torch.autograd.grad(expected, (images, weight), cotangent),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(("function", "upsample"), CASES)
def test_stacked_equals_one_by_one(function: Convolution, upsample: bool) -> None:
    images, weight = tensors(torch.float64, 2)
    pairs = zip(images, weight, strict=True)
    expected = torch.stack([stock(x, w, upsample) for x, w in pairs])
    got = function(images, weight)
    torch.testing.assert_close(got, expected)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(got, (images, weight), cotangent),
        torch.autograd.grad(expected, (images, weight), cotangent),
    )


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(("function", "upsample"), CASES)
def test_single_pixel_images(function: Convolution, upsample: bool) -> None:
    images = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    weight = torch.arange(9, dtype=torch.float64).view(1, 1, 3, 3)
    torch.testing.assert_close(function(images, weight), stock(images, weight, upsample))
