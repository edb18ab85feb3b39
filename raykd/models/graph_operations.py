"""The operations that a graph may call: they take and return tensors and numbers, and touch nothing else."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from raykd.errors import shortened
from raykd.models.graph_limits import MAX_NUMBER

ATEN = frozenset((
    "_adaptive_avg_pool2d", "_log_softmax", "_native_batch_norm_legit_no_training", "_softmax", "_to_copy",
    "_unsafe_view", "abs", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "add", "addmm",
    "alias", "amax", "amin", "avg_pool1d", "avg_pool2d", "baddbmm", "bmm", "cat", "clamp", "clamp_min",
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
NUMBERS: Mapping[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "getitem")
}


def find_operation(call: str) -> Callable[..., Any]:
    """Return the operation of a name.

    Raises:
        ValueError: if there is none that a graph may call.
    """
    space, _, rest = str(call).partition(".")
    if space == "operator" and rest in NUMBERS:
        return _number_of(NUMBERS[rest])
    name, _, overload = rest.partition(".")
    if space != "aten" or name not in ATEN:
        raise ValueError(f"it calls {shortened(call)}, which no graph of a classifier does")
    packet = getattr(torch.ops.aten, _IN_ANY_LAYOUT.get(name, name))
    if overload not in packet.overloads():
        raise ValueError(f"there is no operation {shortened(call)}")
    found: Callable[..., Any] = getattr(packet, overload)
    if found._schema.is_mutable:  # type: ignore[attr-defined]
        raise ValueError(f"{shortened(call)} writes into what it is given")
    return found


def _number_of(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Return arithmetic as sizes need it, or the taking of one of an operation's results."""

    def bounded(first: Any, second: Any) -> Any:
        if compute is operator.getitem:
            allowed = isinstance(first, list | tuple) and isinstance(second, int)
        else:
            allowed = all(isinstance(one, int | float) and abs(one) < MAX_NUMBER for one in (first, second))
        if not allowed:
            raise ValueError(f"it gives {compute.__name__} what is no size")
        return compute(first, second)

    return bounded
