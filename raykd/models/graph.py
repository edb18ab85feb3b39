"""A network as a graph of tensor operations: data from which its answers can be computed without its code.

torch's own export files are no such data: reading them may unpickle. Here a file of tensors holds the network's
constants, and its metadata JSON of plain values:

    {"nodes": [{"name": NAME, "call": "aten.conv2d.default", "args": [...], "kwargs": {...}}, ...], "output": NAME}

An argument is a value, a list, or ``{"node": NAME}``, ``{"weight": NAME}`` (of the state dict), ``{"constant": NAME}``,
``{"images": true}``, ``{"dtype": NAME}``, ``{"device": true}`` (that of the images). The operations are those of
``raykd.models.graph_operations``; how much they may compute is limited, see ``raykd.models.graph_limits``.

Shapes: N images of C channels and S x S pixels, K classes.
"""

import copy
import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from raykd.distributed.memory import is_out_of_memory
from raykd.errors import shortened
from raykd.files import damaged, parse_content
from raykd.models.factories import first_line
from raykd.models.graph_limits import MAX_ITEMS, MAX_NODES, MAX_TEXT, Limits, check_size, count_elements
from raykd.models.graph_operations import NUMBERS, find_operation
from raykd.tensors import DESCRIPTION, checksum_metadata, read_tensor_file

logger = logging.getLogger(__name__)

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.bool)
}
_MAX_CONSTANTS = 2**20  # numbers
_BATCHES = (2, 5)  # on which graph and network are compared
_READ_ON = (1, 3)  # images that a graph that is read must answer
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

    def read() -> GraphNetwork:
        text = metadata[DESCRIPTION]
        if len(text) > MAX_TEXT:
            raise ValueError(f"its text has {len(text):,} characters: {MAX_TEXT:,} are allowed")
        return _StoredGraph(json.loads(text), constants, weights, path, images, classes)

    network: GraphNetwork = parse_content(path, _RESTORE, read)
    with torch.no_grad():
        for count in _READ_ON:
            network(torch.zeros(count, *images))
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
        self._measured: set[torch.Size] = set()
        for name, tensor in weights.items():
            _register(self, name, tensor)
        known: set[str] = set()
        if len(content["nodes"]) > MAX_NODES:
            raise ValueError(f"it has {len(content['nodes']):,} nodes: {MAX_NODES:,} are allowed")
        for node in content["nodes"]:
            if str(node["name"]) in known:
                raise ValueError(f"it has two nodes {shortened(node['name'])}")
            args, kwargs = list(node["args"]), dict(node["kwargs"])
            self._check([args, list(kwargs.values())], known, weights)
            if kwargs.get("device") not in (None, {"device": True}):
                raise ValueError(f"it computes on {shortened(kwargs['device'])}")
            self._calls.append((str(node["name"]), find_operation(node["call"]), args, kwargs))
            known.add(str(node["name"]))
        if self._output not in known:
            raise ValueError("its output is no node")
        self._last_used = self._find_last_uses()

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, C, S, S) to logits (N, K).

        Raises:
            ValueError: if that takes too much memory or time, which is seen before.
        """
        if not torch.compiler.is_compiling() and len(images) and images.shape not in self._measured:
            with torch.no_grad(), Limits(len(images)):
                self._compute(images.to("meta"))
            self._measured.add(images.shape)
        logits: Tensor = self._compute(images)
        return logits

    def _compute(self, images: Tensor) -> Any:
        values: dict[str, Any] = {}
        weights = dict(chain(self.named_parameters(), self.named_buffers()))
        held, is_traced = 0, torch.compiler.is_compiling()  # then sizes are symbols

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
            if kind == "node":
                return values[name]
            tensor = (self._constants if kind == "constant" else weights)[name]
            return tensor.to(images.device) if kind == "constant" or images.is_meta else tensor

        for (name, call, args, kwargs), unused in zip(self._calls, self._last_used, strict=True):
            values[name] = call(*value(args), **{key: value(one) for key, one in kwargs.items()})
            if not is_traced:
                held += count_elements(values[name])
                check_size(held, len(images))
                held -= sum(count_elements(values[one]) for one in unused)
            for one in unused:
                del values[one]
        return values[self._output]

    def _find_last_uses(self) -> list[set[str]]:
        """Return, by call, the nodes that are not needed behind it: as little is kept as by the network itself."""
        later, found = {self._output}, []
        for name, _, args, kwargs in reversed(self._calls):
            here = {name, *_nodes_in([args, list(kwargs.values())])} - later
            later |= here
            found.append(here)
        return found[::-1]

    def _check(self, argument: Any, nodes: set[str], weights: Mapping[str, Tensor]) -> None:
        """Refuse an argument that is none."""
        if isinstance(argument, list):
            if len(argument) > MAX_ITEMS:
                raise ValueError(f"it has a list of {len(argument):,}: {MAX_ITEMS:,} are allowed")
            for one in argument:
                self._check(one, nodes, weights)
        elif isinstance(argument, dict):
            ((kind, name),) = argument.items()
            known: Mapping[str, Any] = {
                "node": nodes, "weight": weights, "constant": self._constants, "dtype": _DTYPES, "images": {True},
                "device": {True},
            }  # fmt: skip
            if name not in known[kind]:
                raise ValueError(f"it has no {kind} {shortened(name)}")


class _StoredGraph(GraphNetwork):
    """A graph of a file, whose faults are the file's."""

    def __init__(
        self,
        content: Mapping[str, Any],
        constants: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        path: Path,
        images: tuple[int, int, int],
        classes: int,
    ) -> None:
        super().__init__(content, constants, weights)
        self._path, self._images, self._classes = path, images, classes

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, C, S, S) to logits (N, K).

        Raises:
            CorruptError: if the graph does not.
        """
        if torch.compiler.is_compiling():
            return super().forward(images)
        try:
            logits = super().forward(images)
        except Exception as error:  # torch's operations, given anything, may fail in any way
            if is_out_of_memory(error) or images.shape[1:] != self._images:
                raise
            raise damaged(self._path, first_line(error), _RESTORE) from None
        expected = (len(images), self._classes)
        if not isinstance(logits, Tensor) or logits.shape != expected or not logits.is_floating_point():
            raise damaged(self._path, f"it does not answer with {self._classes} logits of each image", _RESTORE)
        if not (logits.is_meta or logits.isfinite().all()) and images.isfinite().all():
            raise damaged(self._path, "its logits are not finite", _RESTORE)
        return logits


def _nodes_in(argument: Any) -> set[str]:
    if isinstance(argument, list):
        return {name for one in argument for name in _nodes_in(one)}
    return {argument["node"]} if isinstance(argument, dict) and "node" in argument else set()


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
            call = str(node.target) if node.target not in NUMBERS.values() else f"operator.{node.target.__name__}"
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
