"""A network in memory has a name by what it is, and every use of it a copy of its own."""

import pytest
import torch
from torch import nn

from raykd.errors import UsageError
from raykd.models import in_memory
from raykd.models.factories import load_factory
from raykd.models.in_memory import build_registered, register, same_network


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "_NETWORKS", {})


def test_a_copy_is_built_by_name() -> None:
    network = nn.Linear(2, 3)
    name = register(network)
    network.weight.data.zero_()
    built = load_factory(name, num_classes=3, channels=1, size=2)
    assert isinstance(built, nn.Linear)
    assert built.weight.abs().sum() > 0, "as it was when it was given"
    built.weight.data.zero_()
    assert build_registered(name).state_dict()["weight"].abs().sum() > 0


def test_a_name_tells_layers_and_shapes_but_not_weights() -> None:
    name = register(nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1)))
    assert register(nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1))) == name
    others = [nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.1)), nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.2))]
    assert len({name, *map(register, others)}) == 3


def test_what_is_not_known_or_cannot_be_copied_is_said() -> None:
    with pytest.raises(UsageError, match="in-memory:0123 was a network in the memory .* give it again"):
        build_registered("in-memory:0123")
    network = nn.Linear(2, 3)
    network.held = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(UsageError, match="the Linear cannot be copied .*TypeError"):
        register(network)


def test_networks_of_equal_layers_are_told_apart_by_their_answers() -> None:
    class Twice(nn.Linear):
        def __init__(self, times: float = 1.0) -> None:
            super().__init__(2, 3)
            self.times = times

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.times * super().forward(images)

    images = torch.rand(4, 2)
    assert same_network(Twice(), Twice(), images)
    assert not same_network(Twice(), Twice(2.0), images)
    assert not same_network(nn.Linear(2, 3), Twice(), images)
    assert not same_network(nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3), nn.ReLU()), images)
