"""The patch discriminator: its size, and how far each of its logits sees."""

from typing import get_args

import pytest
import torch

from raykd.errors import UsageError
from raykd.generators.patch_discriminator import Patch, PatchDiscriminator

PATCHES = get_args(Patch)


def test_it_has_the_published_parameters_and_patches() -> None:
    discriminator = PatchDiscriminator(3, 32)
    assert sum(p.numel() for p in discriminator.parameters()) == 531_328
    assert discriminator(torch.randn(2, 3, 32, 32)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("patch", PATCHES)
def test_a_logit_sees_a_patch_of_that_size(patch: Patch) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(1, 64, 4, patch).double()
    for module in discriminator:
        if isinstance(module, torch.nn.BatchNorm2d):  # which looks at the whole batch
            module.eval()
            module.running_mean = torch.zeros(module.num_features, dtype=torch.float64)
            module.running_var = torch.ones(module.num_features, dtype=torch.float64)
    image = torch.randn(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    logits = discriminator(image)
    if patch == "image":
        assert logits.shape == (1, 1, 1, 1)
        (gradient,) = torch.autograd.grad(logits.sum(), image)
        assert (gradient != 0).all()
        return
    assert logits.shape == (1, 1, 16, 16), "of all patch sizes equally many"
    seen = []
    for row in (7, 8):
        (gradient,) = torch.autograd.grad(logits[0, 0, row, 8], image, retain_graph=True)
        rows, columns = (gradient[0, 0].abs().sum(axis).nonzero().flatten() for axis in (1, 0))
        assert len(rows) == len(columns) == rows[-1] - rows[0] + 1 == patch
        seen.append(int(rows[0]))
    assert seen[1] - seen[0] == 4, "the stride"


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_every_size_of_image_gives_equal_strides(patch: Patch, size: int) -> None:
    if patch == "image" and size == 28:
        with pytest.raises(UsageError, match="takes a size of 8, 16, 32, 64, ..., not 28"):
            PatchDiscriminator(3, size, 4, patch)
        return
    side = 1 if patch == "image" else size // 4
    assert PatchDiscriminator(3, size, 4, patch)(torch.randn(2, 3, size, size)).shape == (2, 1, side, side)


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="divisible by 4, not 30"):
        PatchDiscriminator(3, 30)
