"""Gradients reach the parameters that they are of."""

import copy

import torch
from torch import nn

from raykd.config.optim import Adam
from raykd.distributed.updater import Updater
from raykd.distributed.world import World


def test_a_gradient_in_another_memory_layout_is_applied_where_it_belongs() -> None:
    # From a channels-last batch the second convolution's gradient comes back channels-last too.
    torch.manual_seed(0)
    images = torch.rand(16, 8, 8, 1).permute(0, 3, 1, 2)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    oracle = copy.deepcopy(network)
    updater = Updater(network.parameters(), Adam(name="adam", lr=0.01), World.alone(), 10)
    optimizer = torch.optim.Adam(oracle.parameters(), lr=0.01, fused=False)
    for _ in range(5):
        updater.minimise(network(images).square().mean())
        optimizer.zero_grad()
        oracle(images).square().mean().backward()
        optimizer.step()
    for mine, theirs in zip(network.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
