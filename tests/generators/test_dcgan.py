"""Dcgan against the module as published."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.errors import UsageError
from raykd.generators import Dcgan
from tests.generators.plain import PlainGenerator

Z, B, WIDTH = 12, 6, 16
DEAD = {"conv1.bias", "conv2.bias"}


def twins(channels: int, size: int, dtype: torch.dtype) -> tuple[Dcgan, PlainGenerator]:
    """The same generator twice: the published state dict moves over in order, less the buffers."""
    torch.manual_seed(0)
    plain = PlainGenerator(Z, channels, size, WIDTH).to(dtype)
    ours = Dcgan(Z, channels, size, WIDTH).to(dtype)
    published = [
        value
        for name, value in plain.state_dict().items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    ours.load_state_dict(dict(zip(ours.state_dict(), published, strict=True)))
    with torch.no_grad():  # BatchNorm weights of 1 and 0 would hide a mistake
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            theirs.add_(torch.randn_like(theirs), alpha=0.1)
            mine.copy_(theirs)
    return ours, plain


def outcome(model: torch.nn.Module, z: Tensor, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
    images = model(z)
    grads = torch.autograd.grad(images, list(model.parameters()), cotangent, allow_unused=True, materialize_grads=True)
    return images.detach(), list(grads)


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-3)])
def test_equals_the_published_module(size: int, channels: int, dtype: torch.dtype, tolerance: float) -> None:
    ours, plain = twins(channels, size, dtype)
    z = torch.randn(B, Z, dtype=dtype)
    cotangent = torch.randn(B, channels, size, size, dtype=dtype)
    images, grads = outcome(ours, z, cotangent)
    expected, expected_grads = outcome(plain, z, cotangent)
    assert (images - expected).abs().max() <= tolerance * expected.abs().max()
    largest = max(float(grad.abs().max()) for grad in expected_grads)
    for (name, _), ours_grad, theirs in zip(ours.named_parameters(), grads, expected_grads, strict=True):
        scale = largest if name in DEAD else float(theirs.abs().max())
        assert (ours_grad - theirs).abs().max() <= tolerance * scale, name


def test_dead_biases_get_no_gradient_and_do_not_matter() -> None:
    ours, _ = twins(1, 28, torch.float64)
    z = torch.randn(B, Z, dtype=torch.float64)
    before = ours(z)
    before.square().sum().backward()
    without = {name for name, p in ours.named_parameters() if p.grad is None}
    assert without == DEAD
    with torch.no_grad():
        dict(ours.named_parameters())["conv1.bias"].add_(3.0)
    assert torch.equal(ours(z), before)


@pytest.mark.parametrize(("latent", "channels", "count"), [(100, 1, 1049985), (1000, 3, 8423939)])
def test_published_parameter_counts(latent: int, channels: int, count: int) -> None:
    assert sum(p.numel() for p in Dcgan(latent, channels, 32).parameters()) == count


def test_images_are_normalised_and_eval_changes_nothing() -> None:
    ours, _ = twins(3, 32, torch.float32)
    z = torch.randn(B, Z)
    images = ours(z)
    assert images.shape == (B, 3, 32, 32)
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(images.var((0, 2, 3), unbiased=False), torch.ones(3), rtol=1e-3, atol=0)
    assert torch.equal(ours.eval()(z), images)
    assert not list(ours.buffers())


def test_bfloat16_autocast_returns_float32_close_to_full_precision() -> None:
    ours, _ = twins(3, 32, torch.float32)
    z = torch.randn(B, Z)
    with torch.autocast("cpu", torch.bfloat16):
        images = ours(z)
    assert images.dtype is torch.float32
    assert (images - ours(z)).abs().mean() < 0.05


@pytest.mark.parametrize("wrong", [{"size": 30}, {"size": 32, "width": 7}])
def test_sizes_that_do_not_divide_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="dcgan"):
        Dcgan(8, 1, **wrong)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.endurance)])
def test_compiled_equals_eager(backend: str) -> None:
    ours, _ = twins(1, 32, torch.float64)
    z = torch.randn(B, Z, dtype=torch.float64)
    cotangent = torch.randn(B, 1, 32, 32, dtype=torch.float64)
    images, grads = outcome(ours, z, cotangent)
    ours.compile(dynamic=False, fullgraph=True, backend=backend)
    compiled, compiled_grads = outcome(ours, z, cotangent)
    torch.testing.assert_close(compiled, images, rtol=1e-9, atol=1e-10)
    for got, expected in zip(compiled_grads, grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9)
