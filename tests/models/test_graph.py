"""A network's answers without its code: the same as the network's, and nothing but tensor operations."""

import copy
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raykd.errors import CorruptError
from raykd.models import build_model
from raykd.models.adapters import adapt
from raykd.models.graph import _ATEN, GraphNetwork, read_graph, trace_graph
from raykd.tensors import DESCRIPTION, checksum_metadata
from tests.models import strangers

SHAPE = (1, 8, 8)


class Own(nn.Module):
    """Most that classifiers do: a buffer that is not saved, in-place activations, sizes of the batch, a hook's work."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.pool, self.drop, self.head = nn.MaxPool2d(2), nn.Dropout(0.3), nn.Linear(64, strangers.CLASSES)
        self.register_buffer("scale", torch.full((4, 1, 1), 2.0), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found = self.pool(self.body(images))
        found = found + self.scale * torch.sigmoid(found)  # type: ignore[operator]
        return {"logits": self.head(self.drop(found.view(found.size(0), -1)))}


class Branching(nn.Module):
    """Its answers depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, strangers.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(images.flatten(1))
        return found if found.sum() > 0 else -found


class Remembering(Own):
    """It keeps its last answers."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.last = super().forward(images)["logits"]
        return {"logits": self.last}


def trained(network: nn.Module, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    network = adapt(network, shape, strangers.CLASSES, "student", "logits")
    network.train()(torch.randn(16, *shape))
    return network.eval()


def written(folder: Path, network: nn.Module, shape: tuple[int, int, int] = SHAPE) -> Path:
    made = trace_graph(network, shape)
    assert made is not None
    save_file(made[0], folder / "graph.safetensors", made[1])
    return folder / "graph.safetensors"


@pytest.mark.parametrize("make", [Own, strangers.Flattens, strangers.ByView])
def test_a_graph_answers_as_its_network(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    shape = SHAPE if make is Own else strangers.SHAPE
    network = trained(make(), shape)
    graph = read_graph(written(tmp_path, network, shape), network.state_dict(), shape, strangers.CLASSES)
    assert graph.state_dict().keys() == network.state_dict().keys()
    images = torch.randn(7, *shape)
    with torch.no_grad():
        torch.testing.assert_close(graph(images), network(images), rtol=1e-5, atol=1e-5)
        other = {name: tensor * 2 for name, tensor in network.state_dict().items()}
        graph.load_state_dict(other)
        network.load_state_dict(other)
        torch.testing.assert_close(graph(images), network(images), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["cifar_resnet8", "mobilenetv2", "shufflenetv2"])
def test_networks_of_all_kinds_have_one(name: str) -> None:
    network = build_model(name, num_classes=10, channels=3, size=32)
    assert trace_graph(network.eval(), (3, 32, 32)) is not None


def test_what_depends_on_values_has_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert trace_graph(trained(Branching()), SHAPE) is None
    assert "no graph of the student is kept" in caplog.text


def test_what_cannot_be_copied_has_none() -> None:
    """Such as one that keeps what it has computed in training, which at its end does not fail of it."""
    network = trained(Remembering())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(network)
    assert trace_graph(network, SHAPE) is None


def test_no_more_is_kept_than_the_network_itself_keeps() -> None:
    """Of a chain of layers two results at a time, not all of a batch that the network itself has room for."""
    alive: list[int] = []
    results: list[weakref.ref[Tensor]] = []
    weights = {"bias": torch.zeros(1)}
    layers = [{"name": f"n{i}", "call": "aten.add.Tensor", "args": [{"node": f"n{i - 1}"}, {"weight": "bias"}],
               "kwargs": {}} for i in range(1, 9)]  # fmt: skip
    first = {"name": "n0", "call": "aten.flatten.using_ints", "args": [{"images": True}, 1], "kwargs": {}}
    graph = GraphNetwork({"nodes": [first, *layers], "output": "n8"}, {}, weights)

    def counted(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def compute(*args: Any) -> Tensor:
            result = call(*args)
            results.append(weakref.ref(result))
            alive.append(sum(one() is not None for one in results))
            return result

        return compute

    graph._calls = [(name, counted(call), args, kwargs) for name, call, args, kwargs in graph._calls]
    assert graph(torch.ones(2, *SHAPE)).shape == (2, 64)
    assert max(alive) <= 3


def test_torch_knows_every_operation() -> None:
    assert [name for name in sorted(_ATEN) if not hasattr(torch.ops.aten, name)] == []


def _calls(call: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["nodes"][-1].update(call=call)


def _last(call: str, *args: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["nodes"][-1].update(call=call, args=list(args), kwargs={})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_calls("aten.from_file.default"), "calls 'aten.from_file.default', which no graph"),
        (_calls("os.system"), "calls 'os.system'"),
        (_calls("operator.attrgetter"), "calls 'operator.attrgetter'"),
        (_calls("aten.__class__"), "calls 'aten.__class__'"),
        (_calls("aten.relu.__class__"), "there is no operation"),
        (_calls("aten.relu.out"), "writes into|there is no operation"),
        (lambda content: content["nodes"][-1].update(args=[{"node": "absent"}]), "has no node 'absent'"),
        (lambda content: content["nodes"][-1].update(args=[{"weight": "__class__"}]), "has no weight"),
        (lambda content: content["nodes"][-1].update(args=[{"images": True}, [3]]), "damaged"),
        (lambda content: content["nodes"][-1].update(args=7), "not iterable"),
        (lambda content: content.pop("nodes"), "'nodes' is missing"),
        (lambda content: content.update(output="absent"), "its output is no node"),
        (_last("operator.floordiv", 1, 0), "damaged .*zero"),
        (_last("operator.add", 1, 1), "does not answer with 3 logits"),
        (_last("aten.relu.default", {"images": True}), "does not answer with 3 logits"),
    ],
)
def test_what_is_no_such_graph_is_refused(tmp_path: Path, change: Callable[[Any], object], says: str) -> None:
    network = trained(Own())
    made = trace_graph(network, SHAPE)
    assert made is not None
    constants, metadata = made
    content = json.loads(metadata[DESCRIPTION])
    content.pop("sha256")
    change(content)
    path = tmp_path / "graph.safetensors"
    save_file(constants, path, checksum_metadata(constants, content))
    with pytest.raises(CorruptError, match=says):
        read_graph(path, network.state_dict(), SHAPE, strangers.CLASSES)
