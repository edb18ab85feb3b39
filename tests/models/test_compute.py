"""Compute in forward passes of the teacher: what a forward, a backward to the images and a training pass count."""

import pytest
import torch
from torch import nn

from raykd.distributed.world import World
from raykd.models.compute import ComputeCounter, forward_macs

MACS = 4 * 4 * (3 * 3 * 3) * 8 + 8 * 4 * 4 * 5  # of one image


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(128, 5)
    )


def test_the_forward_pass_of_an_image_is_its_convolutions_and_products() -> None:
    assert forward_macs(network(), torch.zeros(2, 3, 4, 4)) == 2 * MACS


def test_measuring_leaves_buffers_and_random_numbers_alone() -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    forward_macs(net, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("frozen", "images_need_gradient", "grad", "passes"),
    [(False, False, True, 3), (True, True, True, 2), (True, False, True, 1), (False, True, False, 1)],
)
def test_passes_are_counted_by_where_gradients_flow(
    frozen: bool, images_need_gradient: bool, grad: bool, passes: int
) -> None:
    net, counter = network().requires_grad_(not frozen), ComputeCounter()
    call = counter.counting(lambda module: module)(net.eval() if frozen else net)
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            call(torch.zeros(4, 3, 4, 4, requires_grad=images_need_gradient))
    assert counter.total(World.alone()) == 3 * 4 * MACS * passes


def test_a_run_that_goes_on_adds_to_what_was_before_and_an_older_one_says_nothing() -> None:
    counter = ComputeCounter()
    counter.go_on(1000.0, step=5)
    assert counter.total(World.alone()) == 1000
    counter.go_on(None, step=5)
    assert counter.total(World.alone()) is None


def test_a_network_that_cannot_be_copied_is_not_counted_and_works() -> None:
    class Stubborn(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

        def __deepcopy__(self, memo: object) -> "Stubborn":
            raise RuntimeError("no copies")

    counter = ComputeCounter()
    assert counter.counting(lambda module: module)(Stubborn())(torch.ones(2)).sum() == 2
    assert counter.total(World.alone()) is None
