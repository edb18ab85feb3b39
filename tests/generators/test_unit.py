"""MosaicKD's generator against the module as published."""

import pytest
import torch
from torch import nn

from raykd.errors import UsageError
from raykd.generators import UnitGenerator, initialise

HALF = (0.5, 0.5, 0.5)


def published(latent: int, channels: int, first: int, width: int) -> nn.Sequential:
    """The layers in the paper's order, of torch's own modules."""
    return nn.Sequential(
        nn.Linear(latent, width * first**2),
        nn.Unflatten(1, (width, first, first)),
        nn.BatchNorm2d(width),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, width // 2, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width // 2),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width // 2, width // 4, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width // 4),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width // 4, channels, 3, 1, 1),
        nn.Sigmoid(),
    )


def test_it_has_the_published_parameters() -> None:
    generator = UnitGenerator(100, 32, HALF, HALF)
    assert sum(p.numel() for p in generator.parameters()) == 2_026_051
    of_the_pool = UnitGenerator(256, 32, HALF, HALF, (128, 128, 64))
    assert sum(p.numel() for p in of_the_pool.parameters()) == 2_328_899
    assert "scale" not in generator.state_dict(), "the normalisation is the data's, not trained"


@pytest.mark.parametrize("size", [28, 32])
def test_images_and_gradients_are_those_of_the_published_module(size: int) -> None:
    torch.manual_seed(0)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
    ours = UnitGenerator(12, size, mean, std, (16, 8, 4)).double()
    plain = published(12, 3, size // 4, 16).double()
    with torch.no_grad():
        for own, given in zip(ours.parameters(), plain.parameters(), strict=True):
            given.add_(torch.randn_like(given), alpha=0.1)  # norms of 1 and 0 would hide a mistake
            own.copy_(given)
    z = torch.randn(5, 12, dtype=torch.float64)
    images = ours(z)
    column = (torch.tensor(values, dtype=torch.float32).double().view(-1, 1, 1) for values in (mean, std))
    centre, spread = column
    expected = (plain(z) - centre) / spread
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)
    cotangent = torch.randn_like(images)
    grads = torch.autograd.grad(images, list(ours.parameters()), cotangent)
    for mine, theirs in zip(grads, torch.autograd.grad(expected, list(plain.parameters()), cotangent), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()) + 1e-9)


def test_images_stay_in_the_range_of_real_ones() -> None:
    torch.manual_seed(0)
    generator = UnitGenerator(12, 16, (0.3,), (0.4,), (8, 4, 2))
    unit = generator(100 * torch.randn(16, 12)) * 0.4 + 0.3
    assert unit.min() > -1e-6
    assert unit.max() < 1 + 1e-6
    z = torch.randn(4, 12)
    training = generator(z)
    assert torch.equal(generator.eval()(z), training), "batch statistics in both modes"


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="size is divisible by 4, not 30"):
        UnitGenerator(12, 30, HALF, HALF)


def test_weights_are_drawn_anew_by_their_seed_and_no_other_numbers_move() -> None:
    generator = UnitGenerator(12, 16, (0.3,), (0.4,), (8, 4, 2))
    torch.manual_seed(5)
    built = UnitGenerator(12, 16, (0.3,), (0.4,), (8, 4, 2)).state_dict()
    torch.manual_seed(3)
    following = torch.randn(2)
    torch.manual_seed(3)
    initialise(generator, "default", 5)
    assert torch.equal(torch.randn(2), following)
    drawn = generator.state_dict()
    assert all(torch.equal(drawn[name], tensor) for name, tensor in built.items()), "as when it is built"
    initialise(generator, "default", 6)
    assert not torch.equal(generator.state_dict()["conv1.weight"], built["conv1.weight"])


def test_normal_weights_are_those_of_dcgan() -> None:
    generator = UnitGenerator(64, 16, (0.3,), (0.4,), (64, 32, 16))
    initialise(generator, "normal", 0)
    for name, tensor in generator.state_dict().items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif name.startswith("norm"):
            assert abs(float(tensor.mean()) - 1) < 0.02 and 0.01 < float(tensor.std()) < 0.03, name
        else:
            assert abs(float(tensor.mean())) < 0.005 and 0.015 < float(tensor.std()) < 0.025, name
