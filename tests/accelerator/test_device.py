"""The pretended device does what CUDA does: refuses what CUDA refuses, waits where CUDA waits, and is seen by nobody
else."""

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.optim import Adam, Sgd
from raykd.distributed.world import World
from tests.accelerator.device import Accelerator, accelerator

CUDA = torch.device("cuda", 0)


@pytest.fixture
def device() -> Iterator[Accelerator]:
    with accelerator() as found:
        yield found


def test_it_is_there_for_as_long_as_the_context_lasts() -> None:
    attributes = {name: getattr(torch.Tensor, name) for name in ("device", "to", "numpy", "is_cuda")}
    with accelerator(2) as device:
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 2
        assert World.current().device == CUDA
        tensor = torch.ones(3, device="cuda:1")
        assert (tensor.device, tensor.is_cuda, tensor.get_device()) == (torch.device("cuda:1"), True, 1)
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.ones(3, device="cuda:2")
        assert device.faults == []
    assert {name: getattr(torch.Tensor, name) for name in attributes} == attributes
    assert not torch.cuda.is_available()
    assert torch.ones(3).device.type == "cpu"


def test_what_is_made_of_a_tensor_is_where_it_is(device: Accelerator) -> None:
    base = torch.arange(12.0, device="cuda").view(3, 4)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).to("cuda")
    loss = network(torch.randn(5, 1, 4, 4, device="cuda")).square().mean()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    copied = copy.deepcopy(network)
    everything = [
        base[1:], base.T, base.detach(), base.data, base.half(), base.sum(), base.clone(), base @ base.T,
        torch.zeros_like(base), base.new_zeros(2), base.new_tensor([1.0]), torch.where(base > 2, base, 0.0),
        torch.cat([base, base]), base.argmax(1), base.new_empty(0), loss, *gradients,
        *network.state_dict().values(), *copied.state_dict().values(),
    ]  # fmt: skip
    assert {tensor.device for tensor in everything} == {CUDA}
    assert {base.cpu().device.type, torch.zeros_like(base, device="cpu").device.type} == {"cpu"}


MIXES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "sum": lambda ours, host: ours + host,
    "in place": lambda ours, host: host.add_(ours),
    "product": lambda ours, host: ours @ host.T,
    "joined": lambda ours, host: torch.cat([ours, host]),
    "joined numbers": lambda ours, host: torch.stack([ours.sum(), host.sum()]),
    "layer": lambda ours, host: F.linear(ours, host),
    "convolution": lambda ours, host: F.conv2d(ours[None, None], host[None, None, :1, :1]),
    "loss": lambda ours, host: F.cross_entropy(ours, host[:, 0].long()),
    "places of the device in the host": lambda ours, host: host[ours[:, 0].long()],
    "values of the host": lambda ours, host: ours.index_put_((torch.tensor([0], device="cuda"),), host[0]),
    "sums by class": lambda ours, host: ours.index_add_(0, torch.tensor([0, 1, 2], device="cuda"), host),
    "number of the device": lambda ours, host: host + ours.sum(),
    "mean": lambda ours, host: torch.lerp(ours, host, 0.5),
    "running statistics": lambda ours, host: F.batch_norm(ours, host[0], host[0], training=True),
    "draw": lambda ours, host: ours.normal_(generator=torch.Generator()),
    "draw on the host": lambda ours, host: host.normal_(generator=torch.Generator("cuda")),
    "made by the host's numbers": lambda ours, host: torch.randn(3, generator=torch.Generator(), device="cuda"),
    "pinned": lambda ours, host: ours.pin_memory(),
    "another device": lambda ours, host: ours + ours.to("cuda:1"),
}


@pytest.mark.parametrize("name", MIXES)
def test_two_devices_are_refused(name: str) -> None:
    with accelerator(2) as device:
        ours, host = torch.ones(3, 4, device="cuda"), torch.ones(3, 4)
        with pytest.raises(RuntimeError, match=r"same device.*cuda:0|for generator but found|cannot pin"):
            MIXES[name](ours, host)
        assert len(device.faults) == 1


def test_numpy_is_refused(device: Accelerator) -> None:
    ours = torch.ones(3, device="cuda")
    for convert in (Tensor.numpy, np.asarray):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            convert(ours)
    assert len(device.faults) == 2


ALLOWED: dict[str, Callable[[Tensor], Any]] = {
    "number of the host": lambda ours: ours * torch.tensor(2.0),
    "bounds": lambda ours: ours.clamp(torch.tensor(0.0), torch.tensor(1.0)),
    "choice": lambda ours: torch.where(ours > 0, torch.tensor(0.0), ours),
    "number written": lambda ours: ours.__setitem__(0, 2.0),
    "part written": lambda ours: ours.__setitem__(slice(0, 2), 1),
    "masked number": lambda ours: ours.__setitem__(ours > 2, 0.0),
    "made": lambda ours: torch.full((3,), 2.0, device="cuda"),
    "drawn": lambda ours: torch.randn(3, generator=torch.Generator("cuda").manual_seed(1), device="cuda"),
    "repeated": lambda ours: ours.repeat_interleave(3),
    "looked up": lambda ours: ours[torch.arange(2, device="cuda")],
    "from pinned memory": lambda ours: torch.ones(3).pin_memory().to("cuda", non_blocking=True),
    "not waited for": lambda ours: torch.ones(3).to("cuda", non_blocking=True),
    "shapes": lambda ours: (len(ours), ours.shape, list(ours.unbind())),
    "norm": lambda ours: nn.utils.get_total_norm([ours, ours]),
    "the same place": lambda ours: ours.to("cuda").to(ours),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_needs_no_answer_is_not_waited_for(name: str, device: Accelerator) -> None:
    ours = torch.ones(3, 4, device="cuda")
    ALLOWED[name](ours)
    assert (device.syncs, device.faults) == ([], [])


WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda ours: ours.sum().item(),
    "float": lambda ours: float(ours.sum()),
    "truth": lambda ours: bool((ours > 0).all()),
    "list": lambda ours: ours.tolist(),
    "host": lambda ours: ours.cpu(),
    "device": lambda ours: torch.ones(3).to("cuda"),
    "from numbers": lambda ours: torch.tensor([1.0, 2.0], device="cuda"),
    "pinned and waited for": lambda ours: torch.ones(3).pin_memory().to("cuda"),
    "written from the host": lambda ours: ours.copy_(torch.ones(3, 4)),
    "mask": lambda ours: ours[ours > 0],
    "written by a mask": lambda ours: ours.__setitem__(ours > 0, torch.ones(12, device="cuda")),
    "places of the host": lambda ours: ours[torch.tensor([0, 1])],
    "list of places": lambda ours: ours[[0, 1]],
    "found": lambda ours: ours.nonzero(),
    "different": lambda ours: ours.unique(),
    "counted": lambda ours: ours[:, 0].long().bincount(),
    "compared": lambda ours: torch.equal(ours, ours),
    "asked for": lambda ours: torch.cuda.synchronize(),
    "drawn by weights": lambda ours: torch.multinomial(ours[0], 2),
    "repeated by counts": lambda ours: ours[:, 0].repeat_interleave(torch.arange(3, device="cuda")),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted_with_their_place(name: str, device: Accelerator) -> None:
    ours = torch.ones(3, 4).pin_memory().to("cuda", non_blocking=True)
    assert device.syncs == []
    WAITS[name](ours)
    assert len(device.syncs) == 1, device.syncs
    assert device.faults == []


def test_a_wait_names_the_line_of_the_package(device: Accelerator) -> None:
    from raykd.engine.sentinel import parameter_norms

    parameter_norms({"one": nn.Linear(2, 2).to("cuda")})
    assert [sync.where.partition(":")[0] for sync in device.syncs][-1] == "raykd/engine/sentinel.py"


def test_pinned_memory_must_stay_until_somebody_waited(device: Accelerator) -> None:
    pinned = torch.ones(3).pin_memory()
    ours = pinned.to("cuda", non_blocking=True)
    ours.sum().item()
    pinned.zero_()  # after a wait it is the host's again
    assert device.faults == []
    pinned.to("cuda", non_blocking=True)
    pinned.fill_(3)
    torch.cuda.synchronize()
    assert [fault.partition(",")[0] for fault in device.faults] == [
        "pinned memory was written before its copy to the device"
    ]


def test_what_comes_back_must_be_waited_for(device: Accelerator) -> None:
    ours = torch.ones(3, device="cuda")
    back = ours.to("cpu", non_blocking=True)
    torch.cuda.synchronize()
    assert back.sum() == 3
    back = ours.to("cpu", non_blocking=True)
    with pytest.raises(RuntimeError, match="before its copy from the device"):
        back.sum()
    assert len(device.faults) == 1


def test_random_numbers_of_the_device_are_its_own(device: Accelerator) -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    host = torch.randn(2)
    assert torch.equal(torch.randn(4, device="cuda").cpu(), expected), "of the same seed, and not after the host's"
    assert torch.equal(torch.cat([host, torch.randn(2)]), expected)
    with torch.random.fork_rng([CUDA]):
        first = torch.randn(4, device="cuda")
    assert torch.equal(first, torch.randn(4, device="cuda"))
    torch.manual_seed(3)
    dropped = F.dropout(torch.ones(64, device="cuda"))
    assert dropped.device == CUDA
    assert torch.equal(torch.randn(4), expected), "dropout there moves nothing here"


def test_files_say_where_tensors_were(device: Accelerator) -> None:
    buffer = io.BytesIO()
    torch.save({"there": torch.ones(2, device="cuda"), "here": torch.ones(2)}, buffer)
    loaded, mapped = (
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True, map_location=where) for where in (None, "cpu")
    )
    assert [loaded[name].device.type for name in ("there", "here")] == ["cuda", "cpu"]
    assert {tensor.device.type for tensor in mapped.values()} == {"cpu"}


@pytest.mark.parametrize("config", [Adam(name="adam", lr=0.1), Sgd(name="sgd", lr=0.1)])
def test_optimizers_keep_their_state_where_the_parameters_are(config: Any, device: Accelerator) -> None:
    parameter = nn.Parameter(torch.ones(3, device="cuda"))
    optimizer = config.build([parameter])
    parameter.grad = torch.ones(3, device="cuda")
    optimizer.step()
    state = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
    assert {value.device for value in state} == {CUDA}
    assert device.syncs == [], "fused ones ask the device nothing"
    again = config.build([parameter])
    again.load_state_dict({**again.state_dict(), "state": torch_state(optimizer.state_dict()["state"])})
    assert {value.device for value in again.state[parameter].values() if isinstance(value, Tensor)} == {CUDA}


def torch_state(state: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a file gives back: the same on the host."""
    return {
        index: {name: value.cpu() if isinstance(value, Tensor) else value for name, value in own.items()}
        for index, own in state.items()
    }


def test_autocast_of_another_device_does_nothing(device: Accelerator) -> None:
    ours = torch.ones(3, 3, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert (ours @ ours).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (ours @ ours).dtype == torch.float32
    with World.alone("cuda", "bf16").autocast():
        assert (ours @ ours).dtype == torch.bfloat16


def test_what_torch_makes_for_itself_is_where_it_is_needed(device: Accelerator) -> None:
    ours = torch.ones(4, 6, device="cuda", requires_grad=True)
    used, _ = ours.chunk(2, dim=1)  # the other half's gradient is zeros that nobody asked for
    (gradient,) = torch.autograd.grad(used.sum(), ours)
    assert gradient.device == CUDA
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(4, 6) + gradient
