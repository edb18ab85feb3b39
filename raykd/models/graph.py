"""A network as a graph of tensor operations: data from which its answers can be computed without its code.

torch's own export files are no such data: reading them may unpickle. Here a file of tensors holds the network's
constants, and its metadata JSON of plain values:

    {"nodes": [{"name": NAME, "call": "aten.conv2d.default", "args": [...], "kwargs": {...}}, ...], "output": NAME}

An argument is a value, a list, or ``{"node": NAME}``, ``{"weight": NAME}`` (of the state dict), ``{"constant": NAME}``,
``{"images": true}``, ``{"dtype": NAME}``, ``{"device": true}`` (that of the images). The operations are those that are
named below: all of them take and return tensors and numbers, and touch nothing else.

Shapes: N images of C channels and S x S pixels, K classes.
"""

import copy
import json
import logging
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from raykd.files import damaged, parse_content
from raykd.models.factories import first_line
from raykd.tensors import DESCRIPTION, checksum_metadata, read_tensor_file

logger = logging.getLogger(__name__)

_ATEN = frozenset((
    "_adaptive_avg_pool2d", "_log_softmax", "_native_batch_norm_legit_no_training", "_softmax", "_to_copy",
    "_unsafe_view", "abs", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "add", "addmm",
    "alias", "amax", "amin", "avg_pool1d", "avg_pool2d", "baddbmm", "bmm", "cat", "chunk", "clamp", "clamp_min",
    "clone", "constant_pad_nd", "conv1d", "conv2d", "convolution", "div", "elu", "exp", "expand", "flatten",
    "floor_divide", "gelu", "group_norm", "hardsigmoid", "hardswish", "hardtanh", "layer_norm", "leaky_relu",
    "linear", "log", "log_softmax", "matmul", "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "maximum",
    "mean", "minimum", "mish", "mm", "mul", "native_group_norm", "native_layer_norm", "neg", "pad", "permute",
    "pixel_shuffle", "pow", "prelu", "reciprocal", "relu", "relu6", "repeat", "reshape", "rsqrt", "rsub",
    "scaled_dot_product_attention", "select", "selu", "sigmoid", "silu", "slice", "softmax", "softplus", "split",
    "split_with_sizes", "sqrt", "squeeze", "stack", "sub", "sum", "sym_size", "t", "tanh", "transpose",
    "unsqueeze", "upsample_bilinear2d", "upsample_nearest2d", "var", "var_mean", "view",
))  # fmt: skip
_IN_ANY_LAYOUT = {"view": "reshape", "_unsafe_view": "reshape"}
"""What was traced in one memory layout may run in another, of which no view can be had."""
_NUMBERS: Mapping[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "getitem")
}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.bool)
}
_MAX_CONSTANTS = 2**20  # numbers
_BATCHES = (2, 5)  # on which graph and network are compared
_TOLERANCE = 1e-4  # of their logits, relative to the largest
_RESTORE = "remove it, and evaluate with --allow-code, or restore it from a backup"


class _NoGraph(Exception):
    """The network computes something that has no name here."""


def trace_graph(network: nn.Module, images: tuple[int, int, int]) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the tensors and the metadata of the file that holds the graph of a network's answers to images [C, S, S].

    None if it has no graph, which is said: if what it computes depends on values, or has no name here. The network, in
    evaluation mode, stays as it is.
    """
    try:
        own = copy.deepcopy(network).cpu().float().eval()
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            content, constants = _trace(own, images)
            _compare(own, GraphNetwork(content, constants, own.state_dict()), images)
    except Exception as error:  # the user's own code, torch's copy and tracing of it, may fail in any way
        logger.info("no graph of the student is kept, so who evaluates it needs its code: %s", first_line(error))
        return None
    return constants, checksum_metadata(constants, content)


def read_graph(path: Path, weights: Mapping[str, Tensor], images: tuple[int, int, int], classes: int) -> "GraphNetwork":
    """Return the network of a graph, which takes images [C, S, S] and has logits of K classes. None of its code is run.

    Args:
        path: the file.
        weights: of the network that the graph was made of.
        images: the shape of one.
        classes: their number.

    Raises:
        CorruptError: if it is missing, damaged, or anything but such a graph.
    """
    metadata, constants = read_tensor_file(path, _RESTORE)
    network: GraphNetwork = parse_content(
        path, _RESTORE, lambda: GraphNetwork(json.loads(metadata[DESCRIPTION]), constants, weights)
    )
    try:
        with torch.no_grad():
            answers = parse_content(path, _RESTORE, lambda: network(torch.zeros(2, *images)))
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        raise damaged(path, first_line(error), _RESTORE) from None
    if not isinstance(answers, Tensor) or answers.shape != (2, classes):
        raise damaged(path, f"it does not answer with {classes} logits of each image", _RESTORE)
    return network


class GraphNetwork(nn.Module):
    """Computes what a graph says; its state dict has the names of the network's that the graph was made of."""

    def __init__(
        self, content: Mapping[str, Any], constants: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> None:
        """Take the graph.

        Raises:
            KeyError, TypeError, ValueError: if it is none, or names what is not there.
        """
        super().__init__()
        self._calls: list[tuple[str, Callable[..., Any], list[Any], dict[str, Any]]] = []
        self._constants = dict(constants)
        self._output = str(content["output"])
        for name, tensor in weights.items():
            _register(self, name, tensor)
        known: set[str] = set()
        for node in content["nodes"]:
            args, kwargs = list(node["args"]), dict(node["kwargs"])
            self._check([args, list(kwargs.values())], known, set(weights))
            self._calls.append((str(node["name"]), _operation(node["call"]), args, kwargs))
            known.add(str(node["name"]))
        if self._output not in known:
            raise ValueError("its output is no node")
        self._last_used = self._find_last_uses()

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, C, S, S) to logits (N, K)."""
        values: dict[str, Any] = {}
        weights = dict(chain(self.named_parameters(), self.named_buffers()))

        def value(argument: Any) -> Any:
            if isinstance(argument, list):
                return [value(one) for one in argument]
            if not isinstance(argument, dict):
                return argument
            ((kind, name),) = argument.items()
            if kind == "images":
                return images
            if kind == "device":
                return images.device
            if kind == "dtype":
                return _DTYPES[name]
            if kind == "constant":
                return self._constants[name].to(images.device)
            return (values if kind == "node" else weights)[name]

        for (name, call, args, kwargs), unused in zip(self._calls, self._last_used, strict=True):
            values[name] = call(*value(args), **{key: value(one) for key, one in kwargs.items()})
            for one in unused:
                del values[one]
        logits: Tensor = values[self._output]
        return logits

    def _find_last_uses(self) -> list[set[str]]:
        """Return, by call, the nodes that are not needed behind it: as little is kept as by the network itself."""
        later, found = {self._output}, []
        for name, _, args, kwargs in reversed(self._calls):
            here = {name, *_nodes_in([args, list(kwargs.values())])} - later
            later |= here
            found.append(here)
        return found[::-1]

    def _check(self, argument: Any, nodes: set[str], weights: set[str]) -> None:
        """Refuse an argument that is none."""
        if isinstance(argument, list):
            for one in argument:
                self._check(one, nodes, weights)
        elif isinstance(argument, dict):
            ((kind, name),) = argument.items()
            known: Mapping[str, Any] = {
                "node": nodes, "weight": weights, "constant": self._constants, "dtype": _DTYPES, "images": {True},
                "device": {True},
            }  # fmt: skip
            if name not in known[kind]:
                raise ValueError(f"it has no {kind} {name!r}")


def _nodes_in(argument: Any) -> set[str]:
    if isinstance(argument, list):
        return {name for one in argument for name in _nodes_in(one)}
    return {argument["node"]} if isinstance(argument, dict) and "node" in argument else set()


def _operation(call: str) -> Callable[..., Any]:
    space, _, rest = str(call).partition(".")
    if space == "operator" and rest in _NUMBERS:
        return _NUMBERS[rest]
    name, _, overload = rest.partition(".")
    if space != "aten" or name not in _ATEN:
        raise ValueError(f"it calls {call!r}, which no graph of a classifier does")
    packet = getattr(torch.ops.aten, _IN_ANY_LAYOUT.get(name, name))
    if overload not in packet.overloads():
        raise ValueError(f"there is no operation {call!r}")
    found: Callable[..., Any] = getattr(packet, overload)
    if found._schema.is_mutable:  # type: ignore[attr-defined]
        raise ValueError(f"{call!r} writes into what it is given")
    return found


def _register(module: nn.Module, name: str, tensor: Tensor) -> None:
    first, dot, rest = name.partition(".")
    if dot:
        if first not in module._modules:
            module.add_module(first, nn.Module())
        _register(module.get_submodule(first), rest, tensor)
    elif tensor.is_floating_point():
        module.register_parameter(first, nn.Parameter(tensor.detach().clone(), requires_grad=False))
    else:
        module.register_buffer(first, tensor.detach().clone())


class _Whole(nn.Module):
    """A network called from outside, so that its own hooks are traced too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


def _trace(network: nn.Module, images: tuple[int, int, int]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a graph and its constants.

    Raises:
        Exception: whatever the network's code or torch makes of it.
    """
    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(_Whole(network), (torch.zeros(4, *images),), dynamic_shapes=(batch,), strict=False)
    program = exported.run_decompositions({})
    signature, state = program.graph_signature, network.state_dict()
    places = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    constants: dict[str, Tensor] = {}
    inputs: dict[str, dict[str, Any]] = {}
    nodes, output = [], ""

    def argument(given: Any) -> Any:
        if isinstance(given, fx.Node):
            return inputs.get(given.name, {"node": given.name})
        if isinstance(given, list | tuple):
            return [argument(one) for one in given]
        if isinstance(given, torch.dtype):
            return {"dtype": str(given).removeprefix("torch.")}
        if isinstance(given, torch.device):
            return {"device": True}
        if given is None or isinstance(given, bool | int | str) or (isinstance(given, float) and math.isfinite(given)):
            return given
        raise _NoGraph(f"an argument {given!r} has no form here")

    for node in program.graph.nodes:
        if node.op == "placeholder":
            place = places.get(node.name, "").removeprefix("network.")
            if node.name not in places:
                inputs[node.name] = {"images": True}
            elif place in state:
                inputs[node.name] = {"weight": place}
            else:
                whole = places[node.name]
                tensor = program.constants[whole] if whole in program.constants else program.state_dict[whole]
                constants[node.name] = tensor.detach().contiguous().clone()
                inputs[node.name] = {"constant": node.name}
        elif node.op == "output":
            ((answer,),) = node.args
            output = answer.name
        else:
            call = str(node.target) if node.target not in _NUMBERS.values() else f"operator.{node.target.__name__}"
            kwargs = {key: argument(one) for key, one in node.kwargs.items() if key not in ("layout", "memory_format")}
            nodes.append({"name": node.name, "call": call, "args": argument(node.args), "kwargs": kwargs})
    if sum(tensor.numel() for tensor in constants.values()) > _MAX_CONSTANTS:
        raise _NoGraph("it has more constants than its weights file")
    return {"nodes": nodes, "output": output}, constants


def _compare(network: nn.Module, graph: GraphNetwork, images: tuple[int, int, int]) -> None:
    """Refuse a graph that computes other logits than its network."""
    for count in _BATCHES:
        batch = torch.randn(count, *images, generator=torch.Generator().manual_seed(count))
        expected, found = network(batch.clone()), graph(batch)
        if not (found - expected).abs().max() <= _TOLERANCE * expected.abs().max().clamp(min=1e-6):
            raise _NoGraph(f"it computes other logits of {count} images than the network")
