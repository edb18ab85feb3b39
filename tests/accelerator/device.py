"""A device that computes on the processor and answers as CUDA's first one: see the text of this package."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _device

from tests.accelerator.memory import HOST, Copies, Sync, home_of, place, storage_of, target_of
from tests.accelerator.operations import GENERATORS, Operations

_FACTORIES = (
    "arange", "as_tensor", "asarray", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "linspace",
    "logspace", "ones", "ones_like", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm",
    "scalar_tensor", "tensor", "zeros", "zeros_like",
)  # fmt: skip
_FROM_HOST = {"as_tensor", "asarray", "tensor", "new_tensor"}
_NEW = ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")
_MEMORY = 8 * 2**30


class Accelerator:
    """What a test asks about the device.

    Attributes:
        syncs: where the host has waited for it.
        faults: what was refused, or found too late to be refused.
    """

    def __init__(self, operations: Operations, generator: torch.Generator, count: int) -> None:
        self._operations, self._generator = operations, generator
        self._count, self._current = count, 0
        self.seeded = 0

    @property
    def syncs(self) -> list[Sync]:
        return self._operations.syncs

    @property
    def faults(self) -> list[str]:
        return self._operations.faults

    @property
    def operations(self) -> int:
        """Return how many operations there were, the host's too."""
        return self._operations.seen

    def synchronize(self, device: Any = None) -> None:
        self._operations.wait("synchronize")


class Event:
    """A moment of the device, which is as far as the host."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._at = 0.0

    def record(self) -> None:
        self._at = time.monotonic()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def elapsed_time(self, later: "Event") -> float:
        return 1000 * (later._at - self._at)


class _Generator(torch._C.Generator):
    """A generator that may be the device's. Its numbers are the processor's: CUDA draws others from the same seed."""

    home: torch.device | None

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        found = super().__new__(cls)
        found.home = target_of(device)
        if found.home is not None:
            GENERATORS[found._cdata] = found  # type: ignore[attr-defined]
        return found

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.home or HOST


class _Autocast(torch.autocast):
    """The processor's autocast under CUDA's name. Which operations it keeps in float32 differs in a few."""

    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        if device_type != "cuda":  # would do nothing to tensors of the device
            options["enabled"] = False
        super().__init__("cpu", *args, **options)


@contextmanager
def accelerator(count: int = 1) -> Iterator[Accelerator]:
    """Let torch have so many devices of CUDA as long as the context lasts, in this process."""
    _device._device_constructors()  # remembers the functions that are replaced below
    generator = torch.Generator()
    operations = Operations(Copies(), generator)
    found = Accelerator(operations, generator, count)
    with ExitStack() as patches:

        def put(owner: Any, **attributes: Any) -> None:
            for name, value in attributes.items():
                patches.enter_context(mock.patch.object(owner, name, value))

        put(torch, Generator=_Generator, autocast=_Autocast)
        put(torch, **{name: _factory(name, getattr(torch, name), operations) for name in _FACTORIES})
        put(torch._C, _group_tensors_by_device_and_dtype=_grouping(torch._C._group_tensors_by_device_and_dtype))
        put(torch.nn.functional, one_hot=_one_hot)
        for name, value in _tensor_attributes(operations).items():
            patches.enter_context(mock.patch.object(Tensor, name, value, create=True))
        for name, value in _cuda(found, generator).items():
            patches.enter_context(mock.patch.object(torch.cuda, name, value))
        for name in ("all_gather_object", "broadcast_object_list"):
            put(torch.distributed, **{name: _sending_objects(getattr(torch.distributed, name), operations)})
        # Optimizers ask whether their steps are being recorded.
        put(torch.accelerator, current_stream=lambda device=None: SimpleNamespace(is_capturing=lambda: False))
        put(torch.serialization, _package_registry=[(0, _tag, _restore), *torch.serialization._package_registry])
        patches.enter_context(operations)
        yield found
        operations.faults += operations._copies.settle()


def _factory(name: str, make: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
    def made(*args: Any, device: Any = None, pin_memory: bool = False, **options: Any) -> Any:
        if device is not None and torch.device(device).type == "meta":
            return make(*args, device=device, **options)
        if name in ("as_tensor", "asarray") and args and isinstance(args[0], Tensor):
            return args[0] if device is None else args[0].to(device, options.get("dtype"))
        like = home_of(args[0]) if name.endswith("_like") or name.startswith("new_") else None
        target = like if device is None else target_of(device)
        with operations.making_on(target):
            tensor = make(*args, **options)
        if tensor.is_meta or type(tensor) is not Tensor:
            return tensor
        if target is not None and name in _FROM_HOST:
            operations.wait(f"{name} of numbers of the host")
        storage_of(tensor).pinned = pin_memory
        return place(tensor, target)

    return made


def _tensor_attributes(operations: Operations) -> dict[str, Any]:
    plain = {name: getattr(Tensor, name) for name in ("to", "numpy", "tolist", "__deepcopy__", "__setitem__")}
    device_of = Tensor.device.__get__

    def device(self: Tensor) -> Any:
        return home_of(self) or device_of(self)

    def moved(self: Tensor, target: torch.device | None, non_blocking: bool, copy: bool, **options: Any) -> Tensor:
        if home_of(self) == target:
            return plain["to"](self, copy=copy, **options)  # type: ignore[no-any-return]
        assert not (self.requires_grad and torch.is_grad_enabled()), "gradients across devices are not pretended"
        result: Tensor = plain["to"](self, copy=True, **options)
        place(result, target)
        operations.crossed(self, result, non_blocking=non_blocking)
        return result

    def to(self: Tensor, *args: Any, **options: Any) -> Tensor:
        if args and isinstance(args[0], Tensor) or "other" in options:
            other = options.pop("other", None) if "other" in options else args[0]
            args = (other.device, other.dtype, *args[1:])
        if type(self) not in (Tensor, torch.nn.Parameter) or self.is_meta:
            return plain["to"](self, *args, **options)  # type: ignore[no-any-return]
        place_, dtype, copy, non_blocking, layout = _parsed(args, options)
        if place_ is not None and place_.type == "meta":
            return plain["to"](self, place_)  # type: ignore[no-any-return]
        kept = {"dtype": dtype or self.dtype} | ({} if layout is None else {"memory_format": layout})
        return moved(self, home_of(self) if place_ is None else target_of(place_), non_blocking, copy, **kept)

    def numpy(self: Tensor, *args: Any, **options: Any) -> Any:
        if (home := home_of(self)) is not None:
            operations.faults.append("numpy of a tensor of the device")
            raise TypeError(
                f"can't convert {home} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                "first."
            )
        operations._check_arrived([self])
        return plain["numpy"](self, *args, **options)

    def tolist(self: Tensor) -> Any:
        if home_of(self) is not None:
            operations.wait("tolist")
        operations._check_arrived([self])
        return plain["tolist"](self)

    def deep_copy(self: Tensor, memo: Any) -> Any:
        result = plain["__deepcopy__"](self, memo)
        return place(result, home_of(self)) if home_of(self) is not None else result

    def set_item(self: Tensor, index: Any, value: Any) -> None:
        if home_of(self) is not None and isinstance(value, bool | int | float):
            # torch makes a tensor of it where this one is.
            value = place(torch.full((), value, dtype=self.dtype), home_of(self))
        plain["__setitem__"](self, index, value)

    def pinned(self: Tensor) -> Tensor:
        if home_of(self) is not None:
            operations.refuse(f"cannot pin '{self.type()}' only dense CPU tensors can be pinned")
        result = self if self.is_pinned() else self.clone()
        storage_of(result).pinned = True
        return result

    def to_array(self: Tensor, *args: Any, **options: Any) -> Any:
        return array(self, *args, **options) if home_of(self) is None else numpy(self)

    array: Any = Tensor.__array__
    return {
        "device": property(device),
        "is_cuda": property(lambda self: home_of(self) is not None),
        "is_cpu": property(lambda self: device(self).type == "cpu"),
        "get_device": lambda self: -1 if (home := home_of(self)) is None else home.index,
        "to": to,
        "cpu": lambda self, **options: to(self, "cpu", **options),
        "cuda": lambda self, device=None, non_blocking=False: to(
            self, torch.device("cuda") if device is None else device, non_blocking=non_blocking
        ),
        "type_as": lambda self, other: to(self, other),
        "numpy": numpy,
        "__array__": to_array,
        "tolist": tolist,
        "__deepcopy__": deep_copy,
        "__setitem__": set_item,
        "pin_memory": pinned,
        "is_pinned": lambda self, device=None: bool(getattr(storage_of(self), "pinned", False)),
        **{name: _factory(name, getattr(Tensor, name), operations) for name in _NEW},
    }


def _parsed(args: Sequence[Any], options: dict[str, Any]) -> tuple[torch.device | None, Any, bool, bool, Any]:
    """Return device, dtype, copy, non_blocking and memory format of the arguments of ``Tensor.to``."""
    device, dtype, flags = options.get("device"), options.get("dtype"), []
    for value in args:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, bool):
            flags.append(value)
        elif value is not None:
            device = value
    non_blocking = options.get("non_blocking", flags[0] if flags else False)
    copy = options.get("copy", flags[1] if len(flags) > 1 else False)
    found = None if device is None else torch.device(device)
    return found, dtype, bool(copy), bool(non_blocking), options.get("memory_format")


def _cuda(found: Accelerator, generator: torch.Generator) -> dict[str, Any]:
    def set_device(device: Any) -> None:
        target = target_of(device)
        assert target is not None
        found._current = target.index

    def seed(seed: int) -> None:
        generator.manual_seed(seed)

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: found._count,
        "current_device": lambda: found._current,
        "set_device": set_device,
        "synchronize": found.synchronize,
        "manual_seed": seed,
        "manual_seed_all": seed,
        "get_rng_state": lambda device="cuda": generator.get_state(),
        "set_rng_state": lambda state, device="cuda": generator.set_state(state),
        "Event": Event,
        "mem_get_info": lambda device=None: (_MEMORY, _MEMORY),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: "pretended device",
        "get_device_properties": lambda device=None: SimpleNamespace(
            name="pretended device", total_memory=_MEMORY, major=8, minor=0
        ),
    }


def _one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
    """Do as CUDA's kernel, which does not ask whether the labels are in range; the processor's does."""
    if num_classes < 0:
        num_classes = int(labels.max()) + 1
    result = torch.zeros(*labels.shape, num_classes, dtype=torch.int64, device=labels.device)
    return result.scatter_(-1, labels[..., None], 1)


def _grouping(group: Callable[..., Any]) -> Callable[..., Any]:
    """Return torch's grouping of an optimizer's tensors with the devices where they are."""

    def grouped(lists: Sequence[Sequence[Tensor | None]], with_indices: bool = False) -> Any:
        return {
            (next(t for t in parts[0] if t is not None).device, dtype): (parts, indices)
            for (_, dtype), (parts, indices) in group(lists, with_indices).items()
        }

    return grouped


def _sending_objects(send: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
    def sending(*args: Any, **options: Any) -> Any:
        operations.objects = True
        try:
            return send(*args, **options)
        finally:
            operations.objects = False

    return sending


def _tag(storage: Any) -> str | None:
    home = getattr(storage, "home", None)
    return None if home is None else str(home)


def _restore(storage: Any, location: str) -> Any:
    if not location.startswith("cuda"):
        return None
    storage.home = target_of(location)
    return storage
