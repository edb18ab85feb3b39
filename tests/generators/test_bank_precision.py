"""A bank in low precision and compiled; what it weighs, and what it refuses to be."""

import pytest
import torch
from torch import Tensor

from raykd.errors import UsageError
from raykd.generators import EVERY, GeneratorBank, GeneratorConfig, activation_bytes, member_parameters
from tests.generators.test_bank import CHANNELS, SIZE, B, Z, made, noise


@pytest.mark.parametrize("autocast", [False, True])
def test_a_frozen_bank_in_bfloat16_makes_nearly_the_same_images(autocast: bool) -> None:
    exact, rounded = (made(dtype=torch.float32).eval().requires_grad_(False) for _ in range(2))
    rounded.bfloat16()
    labels, z = torch.tensor([3, 0, 0, 3, 4]), noise(5, Z).float()
    expected = exact.mixed(z, labels)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        images = rounded.mixed(z, labels)
    assert images.dtype == torch.float32
    assert 0 < (images - expected).abs().max() < 0.05 * expected.abs().max()
    if not autocast:  # only the tensors are rounded: the computation is in float32
        torch.testing.assert_close(images, rounded.float().mixed(z, labels))


@pytest.mark.parametrize("plain", [False, True])
def test_training_under_autocast_keeps_statistics_in_float32(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: plain)
    exact, low = made(dtype=torch.float32), made(dtype=torch.float32)
    z = noise(3, 16, Z).float()
    with torch.autocast("cpu", torch.bfloat16):
        images = low(z)
    expected = exact(z)
    assert images.dtype == torch.float32
    assert (images - expected).abs().mean() < 0.03
    cotangent = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    for bank, made_images in ((exact, expected), (low, images)):
        (made_images * cotangent).sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in bank.parameters())
    for (name, ours), theirs in zip(low.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() < 0.2 * theirs.grad.norm(), name  # of rounding weights and maps
    for kept, expected in zip(low.buffers(), exact.buffers(), strict=True):
        assert kept.dtype == torch.float32
        torch.testing.assert_close(kept, expected, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.endurance)])
def test_compiled_equals_eager(backend: str) -> None:
    eager, compiled = made(), made()
    compiled.compile(dynamic=False, fullgraph=True, backend=backend)
    z = noise(3, B, Z)
    cotangent = noise(3 * B, CHANNELS, SIZE, SIZE)
    for bank in (eager, compiled):
        (bank(z) * cotangent).sum().backward()
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())


@pytest.mark.parametrize(("architecture", "conditions"), [("dcgan", 0), ("lsgdfd", 0), ("lsgdfd", 5)])
def test_parameters_are_counted(architecture: str, conditions: int) -> None:
    bank = made((EVERY,), architecture, conditions)
    assert member_parameters(bank.config, CHANNELS, SIZE, conditions) == sum(p.numel() for p in bank.parameters())


@pytest.mark.parametrize(
    ("architecture", "upsamplings", "size"), [("dcgan", 2, 32), ("lsgdfd", 2, 32), ("lsgdfd", 3, 64)]
)
def test_activations_are_estimated(architecture: str, upsamplings: int, size: int) -> None:
    config = GeneratorConfig.model_validate(
        {"architecture": architecture, "latent_dim": 8, "width": 24, "upsamplings": upsamplings}
    )
    bank = GeneratorBank(range(2), config, channels=3, size=size)
    bank.initialise(0)

    def kept(images: int) -> int:
        """Bytes saved for the backward pass, each storage once."""
        storages: dict[int, int] = {}
        alive: list[Tensor] = []  # else an address may be given out twice

        def pack(tensor: Tensor) -> Tensor:
            alive.append(tensor.detach())
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()  # itself it would keep its graph for ever

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            bank(torch.randn(2, images, 8))
        return sum(storages.values())

    measured = (kept(6) - kept(2)) / 8
    assert activation_bytes(config, 3, size) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("classes", "size", "conditions", "message"),
    [
        ((), 8, 0, "at least one class"),
        ((1, 2, 1), 8, 0, "each only once"),
        ((EVERY, 1), 8, 0, "is alone"),
        ((0, 1), 8, 2, "is alone"),
        ((0,), 30, 0, "divisible by 4, not 30"),
    ],
)
def test_banks_that_cannot_be_built(classes: tuple[int, ...], size: int, conditions: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GeneratorBank(classes, GeneratorConfig(), channels=1, size=size, conditions=conditions)
