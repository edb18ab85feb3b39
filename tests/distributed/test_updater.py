"""Gradients reach the parameters that they are of, and bad ones none."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from raykd.config.optim import Adam, AdamW, Optimizer, Sgd
from raykd.distributed.updater import Updater
from raykd.distributed.world import World
from tests.methods.toy import assert_same


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


def copied_state(updater: Updater, network: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = copy.deepcopy({"updater": updater.state_dict()["optimizer"], "net": network.state_dict()})
    return state


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e20])
@pytest.mark.parametrize(
    "config",
    [
        Adam(name="adam", lr=0.01),
        AdamW(name="adamw", lr=0.01),
        Sgd(name="sgd", lr=0.01),
        Sgd(name="sgd", lr=0.01, momentum=0),
    ],
    ids=["adam", "adamw", "sgd", "plain"],
)
def test_no_step_is_made_of_a_gradient_that_is_not_finite_nor_any_after_it(config: Optimizer, bad: float) -> None:
    network = nn.Linear(3, 2)
    updater = Updater(network.parameters(), config, World.alone(), 10)
    updater.minimise(network(torch.ones(1, 3)).sum())
    assert updater.refused.item() == updater.at_fault.item() == 0
    before = copied_state(updater, network)
    poisoned = [torch.ones_like(p) for p in network.parameters()]
    poisoned[0][1, 2] = bad
    updater.step(poisoned)
    updater.minimise(network(torch.ones(1, 3)).sum())
    assert_same(copied_state(updater, network), before)
    assert (updater.refused.item(), updater.at_fault.item()) == (2, 1)


def test_large_gradients_that_adam_can_square_are_used() -> None:
    network = nn.Linear(3, 2)
    updater = Updater(network.parameters(), Adam(name="adam", lr=0.01), World.alone(), 10)
    before = copy.deepcopy(network.state_dict())
    updater.step([torch.full_like(p, 5e18) for p in network.parameters()])
    assert updater.refused.item() == 0
    assert all(bool((before[name] - p).abs().max() > 5e-3) for name, p in network.named_parameters())
    assert all(bool(s["exp_avg_sq"].isfinite().all()) for s in updater.state_dict()["optimizer"].values())


@pytest.mark.parametrize(("clip", "factor"), [(None, 1.0), (2.5, 0.5), (5.0, 1.0), (80.0, 1.0)])
def test_a_gradient_longer_than_the_limit_is_shortened_to_it_over_all_parameters(
    clip: float | None, factor: float
) -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 1))]
    updater = Updater(parameters, Sgd(name="sgd", lr=1.0, momentum=0.0), World.alone(), 10)
    updater.clip_norm = clip
    updater.step([torch.tensor([0.0, -3.0]), torch.tensor([[4.0]])])
    assert parameters[0].tolist() == pytest.approx([0.0, 3.0 * factor])
    assert parameters[1].tolist() == [[pytest.approx(-4.0 * factor)]]
    updater.step([torch.zeros(2), torch.zeros(1, 1)])
    assert updater.refused == 0
    assert parameters[1].isfinite().all()
