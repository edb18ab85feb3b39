"""How much a graph of tensor operations may compute, seen from the shapes alone: on the meta device, with no memory.

The limits are those of classifiers by a wide margin: ResNet-152 on 224 x 224 pixels makes 23e9 operations for an image.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

MAX_NODES = 2**12
MAX_ITEMS = 2**12
"""Of a list, and tensors that one operation may return."""
MAX_TEXT = 2**21
"""Characters of the whole graph."""
MAX_NUMBER = 2**40
"""In arithmetic of sizes."""
MAX_ELEMENTS = 2**25
"""Per image: of any tensor, and of all those that are kept at a time."""
_MAX_OPERATIONS = 2**36  # per image
_PER_ELEMENT = 32  # operations that take as long as reading or writing one
_PER_PRODUCT_OF_INTEGERS = 16  # operations on floating point numbers that take as long as one on integers
_PER_TENSOR = 2**20  # operations that take as long as making one, of any size


class Limits(TorchDispatchMode):
    """Refuses, while it is entered, what is too much for so many images."""

    def __init__(self, images: int) -> None:
        """Allow what ``images`` images take."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._images = images
        self._operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do one operation on shapes.

        Raises:
            ValueError: if it, or all of them together, are too much.
        """
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        packet = func.overloadpacket
        if packet is torch.ops.aten.split and isinstance(args[1], int):
            cut = args[0].shape[args[2] if len(args) > 2 else 0]
            if cut > MAX_ITEMS * args[1]:
                raise ValueError(f"it splits {cut:,} into {args[1]:,} each: {MAX_ITEMS:,} parts are allowed")
        result = func(*args, **kwargs)
        check_size(max((math.prod(one.shape) for one in _tensors(result)), default=0), self._images)
        elements = count_elements([*args, *kwargs.values(), result])
        if packet.__name__.startswith(("avg_pool", "max_pool")):
            elements += count_elements(result) * (math.prod(args[1]) if isinstance(args[1], list | tuple) else args[1])
        self._operations += elements * _PER_ELEMENT + sum(_PER_TENSOR for _ in _tensors(result))
        if packet in flop_registry:
            slower = 1 if next(_tensors(result)).is_floating_point() else _PER_PRODUCT_OF_INTEGERS
            self._operations += flop_registry[packet](*args, **kwargs, out_val=result) * slower
        if self._operations > _MAX_OPERATIONS * self._images:
            raise ValueError(f"it takes more than {_MAX_OPERATIONS:,} operations for an image")
        return result


def check_size(elements: int, images: int) -> None:
    """Refuse to hold so many elements for ``images`` images.

    Raises:
        ValueError: if they are too many.
    """
    if elements > MAX_ELEMENTS * max(1, images):
        raise ValueError(f"it holds {elements // max(1, images):,} numbers for an image: {MAX_ELEMENTS:,} are allowed")


def count_elements(value: Any) -> int:
    """Return the elements of a tensor, or of all that a list holds."""
    return sum(math.prod(one.shape) for one in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
