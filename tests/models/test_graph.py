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
from raykd.models.graph import GraphNetwork, read_graph, trace_graph
from raykd.models.graph_operations import ATEN
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
    assert [name for name in sorted(ATEN) if not hasattr(torch.ops.aten, name)] == []


Parts = tuple[nn.Module, dict[str, Tensor], str]


@pytest.fixture(scope="module")
def own() -> Parts:
    """A network, and the constants and the text of its graph."""
    network = trained(Own())
    made = trace_graph(network, SHAPE)
    assert made is not None
    return network, made[0], made[1][DESCRIPTION]


def _read_changed(own: Parts, folder: Path, change: Callable[[dict[str, Any]], object]) -> GraphNetwork:
    network, constants, text = own
    content = json.loads(text)
    content.pop("sha256")
    change(content)
    save_file(constants, folder / "graph.safetensors", checksum_metadata(constants, content))
    return read_graph(folder / "graph.safetensors", network.state_dict(), SHAPE, strangers.CLASSES)


IMAGES, LAST = {"images": True}, {"node": "last"}
Call = tuple[str, list[Any]]


def _before(*calls: Call) -> Callable[[dict[str, Any]], object]:
    """Operations that the answer does not need; in each, ``LAST`` is the result of the one before."""

    def named(argument: Any, last: str) -> Any:
        if isinstance(argument, list):
            return [named(one, last) for one in argument]
        return {"node": last} if argument == LAST else argument

    nodes = [
        {"name": f"x{number}", "call": call, "args": named(args, f"x{number - 1}"), "kwargs": {}}
        for number, (call, args) in enumerate(calls)
    ]
    return lambda content: content.update(nodes=[*nodes, *content["nodes"]])


def _behind(call: str, *args: Any, **kwargs: Any) -> Callable[[dict[str, Any]], object]:
    """An operation on the logits, whose result is the answer."""

    def change(content: dict[str, Any]) -> None:
        node = {"name": "z", "call": call, "args": [{"node": content["output"]}, *args], "kwargs": kwargs}
        content.update(nodes=[*content["nodes"], node], output="z")

    return change


def _expanded(*sizes: int) -> list[Call]:
    return [("aten.sum.default", [IMAGES]), ("aten.expand.default", [LAST, list(sizes)])]


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
        (_before(("operator.mul", ["a", 3 * 10**9])), "gives mul what is no size"),
        (_before(("operator.mul", [[0], 10**12])), "gives mul what is no size"),
        (_before(("operator.mul", [7, 7]), *[("operator.mul", [LAST, LAST])] * 40), "gives mul what is no size"),
        (_before(("operator.mul", [10**400, 1.5])), "gives mul what is no size"),
        (_before(("operator.add", [None, 1])), "gives add what is no size"),
        (_before(("operator.getitem", [IMAGES, 0])), "gives getitem what is no size"),
        (_before(*[("aten.relu.default", [IMAGES])] * 20_000), r"has 20,0\d\d nodes: 4,096 are allowed"),
        (_before(("aten.cat.default", [[IMAGES] * 5000])), "a list of 5,000: 4,096 are allowed"),
        (_before(("aten.view.default", [IMAGES, "a" * 2**21])), "its text has 2,.* characters"),
        (_before(*_expanded(1 << 20, 1 << 14)), "holds 17,179,869,184 numbers for an image"),
        (_before(*_expanded(4000, 4000), *[("aten.mm.default", [LAST, LAST])] * 200), "takes more than .* operations"),
        (
            _before(*_expanded(1, 1, 4000, 4000), ("aten.avg_pool2d.default", [LAST, [2000, 2000], [1, 1]])),
            "takes more",
        ),
        (_before(*_expanded(1, 1 << 24), ("aten.split.Tensor", [LAST, 1, 1])), "splits 16,777,216 into 1 each"),
        (_before(*_expanded(4096, 1), *[("aten.split.Tensor", [{"node": "x1"}, 1])] * 100), "takes more"),
        (
            _before(*_expanded(1, 1, 10**5, 1), ("aten.scaled_dot_product_attention.default", [LAST] * 3)),
            "holds 10,000,000,000 numbers",
        ),
        (
            _before(
                *[("aten.repeat.default", [IMAGES, [1, 1000, 10, 10]])] * 9,
                ("aten.stack.default", [[{"node": f"x{number}"} for number in range(9)]]),
            ),
            "holds 3.,...,... numbers",
        ),
        (lambda content: content.update(nodes=content["nodes"] * 2), "has two nodes"),
        (_last("operator.add", 1, 1), "does not answer with 3 logits"),
        (_last("aten.relu.default", {"images": True}), "does not answer with 3 logits"),
        (_behind("aten.split.Tensor", 1), "does not answer with 3 logits"),
        (_behind("aten.slice.Tensor", 1, 0, 2), "does not answer with 3 logits"),
        (_behind("aten.slice.Tensor", 1, 0, 0), "does not answer with 3 logits"),
        (_behind("aten.slice.Tensor", 0, 0, 1), "does not answer with 3 logits"),
        (_behind("aten.unsqueeze.default", 2), "does not answer with 3 logits"),
        (_behind("aten._to_copy.default", dtype={"dtype": "int64"}), "does not answer with 3 logits"),
        (_behind("aten._to_copy.default", device="meta"), "computes on 'meta'"),
        (_behind("aten.view.default", [1, 3]), "damaged .*shape"),
        (_behind("aten.mul.Scalar", float("nan")), "its logits are not finite"),
        (_behind("aten.mul.Scalar", float("inf")), "its logits are not finite"),
    ],
)
def test_what_is_no_such_graph_is_refused(
    own: Parts, tmp_path: Path, change: Callable[[Any], object], says: str
) -> None:
    """Before anything of its size is computed."""
    with pytest.raises(CorruptError, match=says):
        _read_changed(own, tmp_path, change)


def test_what_only_other_images_show_is_the_files_fault_too(own: Parts, tmp_path: Path) -> None:
    """What takes memory by the square of their number, what is infinite for some; not images of another size."""
    column, row = ("aten.reshape.default", [IMAGES, [-1, 1]]), ("aten.reshape.default", [IMAGES, [1, -1]])
    graph = _read_changed(own, tmp_path, _before(column, row, ("aten.mm.default", [{"node": "x0"}, LAST])))
    with pytest.raises(CorruptError, match=r"graph.safetensors is damaged \(it holds .* numbers for an image"):
        graph(torch.zeros(10_000, *SHAPE))
    sizes: list[Call] = [("aten.sum.default", [IMAGES]), ("aten.exp.default", [LAST])]
    changes = (_before(*sizes), _behind("aten.mul.Tensor", {"node": "x1"}))
    graph = _read_changed(own, tmp_path, lambda content: [change(content) for change in changes])
    with pytest.raises(CorruptError, match="its logits are not finite"):
        graph(torch.full((2, *SHAPE), 100.0))
    with pytest.raises(RuntimeError, match="invalid for input of size 896"):
        graph(torch.zeros(2, 7, 8, 8))


def test_a_graph_that_was_read_can_be_exported(own: Parts, tmp_path: Path) -> None:
    graph = _read_changed(own, tmp_path, lambda content: None)
    images = torch.randn(2, *SHAPE)
    exported = torch.export.export(graph, (images,)).module()
    torch.testing.assert_close(exported(images), graph(images))
