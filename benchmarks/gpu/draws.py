"""Random numbers that are the same on every device: drawn on the CPU, then moved.

A GPU's generators give other numbers than a CPU's of the same seed, so curves made on a CPU could not be compared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_MADE = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal}
_LIKE = {torch.rand_like, torch.randn_like, torch.randint_like}
_OF_TENSORS = {
    torch.bernoulli, torch.multinomial, torch.poisson, torch.dropout, torch.nn.functional.dropout,
    torch.nn.functional.dropout2d, Tensor.bernoulli, Tensor.multinomial,
}  # fmt: skip
_IN_PLACE = {
    Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.random_, Tensor.exponential_, Tensor.log_normal_,
    Tensor.cauchy_, Tensor.geometric_,
}  # fmt: skip


class _DrawsOnCpu(TorchFunctionMode):
    """Runs every function that draws on the CPU, and moves what it gave to where it was wanted."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in _MADE:
            return _moved(func(*_on_cpu(args), **_on_cpu({**options, "device": "cpu"})), options.get("device", "cpu"))
        if func in _LIKE:
            like = torch.empty_like(args[0], device="cpu")
            drawn = func(like, *_on_cpu(args[1:]), **_on_cpu({**options, "device": "cpu"}))
            return _moved(drawn, options.get("device") or args[0].device)
        if func in _OF_TENSORS:
            return _moved(func(*_on_cpu(args), **_on_cpu(options)), args[0].device)
        if func in _IN_PLACE and args[0].device.type != "cpu":
            drawn = func(torch.empty_like(args[0], device="cpu"), *_on_cpu(args[1:]), **_on_cpu(options))
            with torch.no_grad():
                return args[0].copy_(drawn)
        return func(*args, **options)


def _on_cpu(values: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.cpu(), values)


def _moved(drawn: Any, device: Any) -> Any:
    return drawn.to("cpu" if device is None else device)


class _CpuGenerator(torch.Generator):
    """A generator of the CPU, whatever device it is asked for."""

    def __new__(cls, device: Any = "cpu") -> "_CpuGenerator":
        """Leave the device out."""
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


@contextmanager
def draws_on_cpu() -> Iterator[None]:
    """Draw as on a CPU, whatever device is asked for; generators are the CPU's too."""
    with mock.patch.object(torch, "Generator", _CpuGenerator), _DrawsOnCpu():
        yield
