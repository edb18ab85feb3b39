"""Stages of networks: found by the sizes of maps, and what their taps leave behind."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

from raykd.errors import UsageError
from raykd.models import build_model
from raykd.models.stages import StageMaps, find_stages, shared_stages
from raykd.models.teacher import Teacher


def made(name: str, size: int = 32, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=10, channels=channels, size=size)


@pytest.mark.parametrize(
    ("name", "channels", "expected"),
    [
        ("wrn_16_1", 3, {(32, 32): "groups.1", (16, 16): "groups.3", (8, 8): "groups"}),
        (
            "lenet5_half",
            1,
            {(28, 28): "features.1", (14, 14): "features.2", (10, 10): "features.4", (5, 5): "features.5"},
        ),
    ],
)
def test_a_stage_is_the_last_block_of_its_size_or_the_last_layer(
    name: str, channels: int, expected: dict[tuple[int, int], str]
) -> None:
    assert find_stages(made(name, channels=channels), (channels, 32, 32)) == expected


def test_looking_changes_nothing() -> None:
    network = made("wrn_10_1")
    before, hooks = copy.deepcopy(network.state_dict()), [len(m._forward_hooks) for m in network.modules()]
    find_stages(network, (3, 32, 32))
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert hooks == [len(m._forward_hooks) for m in network.modules()] == [0] * len(hooks)


def test_maps_are_the_outputs_of_the_modules_with_their_gradients() -> None:
    network = made("wrn_10_1").eval()
    images = torch.randn(2, 3, 32, 32)
    tapped = StageMaps(network, ["groups.0", "groups.2"])
    logits, (first, last) = tapped(images)
    expected = network.groups[0](network.conv1(images))  # type: ignore[index, operator]
    assert torch.equal(first, expected)
    assert torch.equal(last, network.groups(network.conv1(images)))  # type: ignore[operator]
    assert torch.equal(logits, network(images))
    last.sum().backward()
    assert network.conv1.weight.grad is not None  # type: ignore[union-attr]


def test_taps_keep_no_graph_and_run_in_copies() -> None:
    network = made("wrn_10_1")
    tapped = StageMaps(network, ["groups.0"])
    copied = copy.deepcopy(tapped)
    (own,), (theirs,) = (one(torch.randn(2, 3, 32, 32))[1] for one in (tapped, copied))
    assert not torch.equal(own, theirs)
    network(torch.randn(2, 3, 32, 32))
    assert all(tap.held is None for tap in [*tapped.taps, *copied.taps])
    del own, theirs
    gc.collect()
    assert [o for o in gc.get_objects() if type(o) is Tensor and o.grad_fn is not None] == []


def test_a_module_that_does_not_run_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    network.add_module("unused", nn.Identity())
    network.forward = lambda images: network[1](network[0](images))  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"without its modules \['unused'\]"):
        StageMaps(network, ["0", "unused"])(torch.randn(2, 3, 8, 8))


def test_stages_of_equal_size_are_shared_and_others_left_out() -> None:
    teacher = Teacher(made("wrn_16_2"), channels=3, size=32)
    assert shared_stages(teacher, made("wrn_10_1"), (3, 32, 32)) == (
        ["network.groups.1", "network.groups.3", "network.groups"],
        ["groups.0", "groups.1", "groups"],
    )
    of_teacher, of_student = shared_stages(teacher, made("resnet18"), (3, 32, 32))
    assert len(of_teacher) == len(of_student) == 3  # not the map of 4 x 4, which the teacher has not


def test_networks_without_a_stage_in_common_are_refused() -> None:
    other = nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.Flatten(), nn.Linear(400, 10))
    with pytest.raises(UsageError, match=r"teacher's stages are 32 x 32, 16 x 16, 8 x 8, the student's 10 x 10; leave"):
        shared_stages(made("wrn_10_1"), other, (3, 32, 32))
