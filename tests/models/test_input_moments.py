"""What BatchNorm remembers of a network's input, against the input itself."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.models.input_moments import input_moments
from raykd.models.teacher import Teacher

SIZE = 16
MEAN, STD = torch.tensor([0.6, -0.4, 0.1]), torch.tensor([1.2, 0.9, 1.0])


def pictures(count: int = 400) -> Tensor:
    """Smooth noise with the moments above, whose channels are much alike."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 5, 5, generator=generator) + 0.4 * torch.randn(count, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")
    flat = smooth.transpose(0, 1).flatten(1)
    shaped = (smooth - flat.mean(1).view(3, 1, 1)) / flat.std(1).view(3, 1, 1)
    return shaped * STD.view(3, 1, 1) + MEAN.view(3, 1, 1)


class Shown(nn.Module):
    """A network that begins with the layers of ``head``."""

    def __init__(self, *head: nn.Module) -> None:
        super().__init__()
        self.head = nn.Sequential(*head)
        self.linear = nn.LazyLinear(4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.head(images).relu().flatten(1))
        return logits


def shown(*head: nn.Module) -> Teacher:
    for module in head:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that it sees
    network = Shown(*head).train()
    with torch.no_grad():
        network(pictures())
    return Teacher(network, channels=3, size=SIZE)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda: nn.Conv2d(3, 16, 3, padding=1, bias=False),
        lambda: nn.Conv2d(3, 24, 5),
        lambda: nn.Conv2d(3, 32, 7, stride=2, padding=3),
    ],
)
def test_the_first_convolution_and_its_norm_tell_the_inputs_moments(
    convolution: Callable[[], nn.Conv2d], seed: int
) -> None:
    torch.manual_seed(seed)
    layer = convolution()
    found = input_moments(shown(layer, nn.BatchNorm2d(layer.out_channels)))
    assert found is not None
    assert found.mean == pytest.approx(MEAN.tolist(), abs=0.15)
    assert sum(found.std) == pytest.approx(float(STD.sum()), rel=0.25)


def test_a_norm_of_the_images_themselves_says_it() -> None:
    found = input_moments(shown(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)))
    assert found is not None
    assert found.mean == pytest.approx(MEAN.tolist(), abs=1e-3)
    assert found.std == pytest.approx(STD.tolist(), rel=1e-3)


@pytest.mark.parametrize(
    "head",
    [
        [nn.Conv2d(3, 4, 3)],
        [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)],
        [nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)],
        [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
        [nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)],
    ],
    ids=["no norm", "norm behind an activation", "groups", "no statistics", "another input"],
)
def test_other_networks_tell_nothing(head: list[nn.Module]) -> None:
    assert input_moments(shown(*head)) is None


def test_broken_statistics_tell_nothing() -> None:
    norm = nn.BatchNorm2d(4)
    teacher = shown(nn.Conv2d(3, 4, 3), norm)
    norm.get_buffer("running_var")[0] = torch.nan
    assert input_moments(teacher) is None
