"""What every operation of torch is held to: one device for all its tensors, no wait that nobody counts.

The rules are those of CUDA's kernels: a number without dimensions may be the host's among elementwise operations, and
indices may be; anything else on two devices is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.accelerator.memory import (
    HOST,
    Copies,
    Sync,
    WrongDevice,
    caller,
    home_of,
    is_anywhere,
    place,
    storage_of,
    tensors_in,
)

_COPIES = {"copy_", "_foreach_copy_", "_copy_from", "_copy_from_and_resize", "set_"}
_NUMBERS_MAY_BE_THE_HOSTS = {
    "where", "masked_fill", "masked_fill_", "index_fill", "index_fill_", "fill", "fill_", "lerp", "lerp_", "full_like",
    "_foreach_mul", "_foreach_mul_", "_foreach_div", "_foreach_div_", "_foreach_add", "_foreach_add_", "addcmul",
    "addcmul_", "addcdiv", "addcdiv_", "clamp", "clamp_",
}  # fmt: skip
_INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_unsafe_index_put", "_index_put_impl_"}
_WAITING = {
    "_local_scalar_dense", "equal", "nonzero", "nonzero_numpy", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "histc", "is_nonzero", "allclose",
}  # fmt: skip
"""Whose result has a size, or is a number, that the host must know."""

GENERATORS: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""Generators of the device, by the address of what they stand for."""


class Operations(TorchDispatchMode):
    """Sees every operation, those of backward passes and optimizers too."""

    def __init__(self, copies: Copies, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.syncs: list[Sync] = []
        self.faults: list[str] = []
        self.seen = 0
        self._made_on: torch.device | None = None
        self._asked = False
        self.objects = False  # are being sent, for which torch takes the present device
        self._copies, self._generator = copies, generator

    def wait(self, what: str) -> None:
        """Count that the host waits for the device, which ends all copies."""
        self.syncs.append(Sync(what, caller()))
        self.faults += self._copies.settle()

    def refuse(self, what: str) -> None:
        """Raise, and keep what was found, whatever becomes of the exception."""
        self.faults.append(f"{what} at {caller()}")
        raise WrongDevice(what)

    @contextmanager
    def making_on(self, device: torch.device | None) -> Iterator[None]:
        """Tell where somebody asks for a tensor. Others are made by torch's own code, which knows only the processor.

        Such are, in a backward pass, zeros for an output that nobody used: they are where they are first needed.
        """
        before = self._made_on, self._asked
        self._made_on, self._asked = device, True
        try:
            yield
        finally:
            self._made_on, self._asked = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [*tensors_in(args), *tensors_in(kwargs.values())]
        self.seen += 1
        if func.namespace == "c10d" and not self.objects:
            self._check_sent(func, given)
        if self._copies.written:
            self._check_arrived(given)
        homes = {home_of(tensor) for tensor in given}
        if homes <= {None}:
            result = self._drawn(func, args, kwargs, self._made_on)
            if not self._asked and all(is_anywhere(tensor) for tensor in given):
                self._mark(result)
            return result
        name = func.overloadpacket.__name__
        device = next(home for home in homes if home is not None)
        if len(homes) > 1:
            for tensor in given:
                if home_of(tensor) is None and is_anywhere(tensor):
                    place(tensor, device)
            homes = {home_of(tensor) for tensor in given}
        if len(homes) > 1:
            if name in _COPIES:
                return self._copied(func, args, kwargs)
            self._check_mixed(func, name, homes, args, given)
        self._count(func, name, args, kwargs)
        result = self._drawn(func, args, kwargs, device)
        for tensor in tensors_in(result if isinstance(result, list | tuple) else (result,)):
            if home_of(tensor) is None and tensor.layout is torch.strided:
                place(tensor, device)
        return result

    def _mark(self, result: Any) -> None:
        for tensor in tensors_in(result if isinstance(result, list | tuple) else (result,)):
            if tensor.layout is torch.strided and not tensor.is_meta:
                storage_of(tensor).anywhere = True

    def _check_sent(self, func: Any, given: Sequence[Tensor]) -> None:
        """Refuse what NCCL cannot send: it knows the devices' memory only."""
        homes = {home_of(tensor) for tensor in given}
        if homes & {None}:
            self.refuse(f"No backend type associated with device type cpu ({func.name()})")
        if homes - {torch.device("cuda", torch.cuda.current_device())}:
            self.refuse(f"{func.name()} of {homes}, and this process has device {torch.cuda.current_device()}")

    def _check_arrived(self, given: Sequence[Tensor]) -> None:
        for tensor in given:
            where = getattr(storage_of(tensor), "in_flight", None)
            if where is not None:
                self.refuse(f"memory of the host was used before its copy from the device, ordered at {where}, ended")

    def _check_mixed(self, func: Any, name: str, homes: set[Any], args: Sequence[Any], given: Sequence[Tensor]) -> None:
        if name in _INDEXING:
            self._check_indices(func, args)
            return
        numbers = torch.Tag.pointwise in func.tags or name in _NUMBERS_MAY_BE_THE_HOSTS
        of_host = [tensor for tensor in given if home_of(tensor) is None]
        if len(homes - {None}) > 1 or not numbers or any(tensor.dim() for tensor in of_host):
            self._refuse_mix(func, homes)

    def _check_indices(self, func: Any, args: Sequence[Any]) -> None:
        """Let indices of the host pass for a tensor of the device: they are copied there, which is waited for."""
        home = home_of(args[0])
        indices = [tensor for tensor in args[1] if tensor is not None]
        values = [tensor for tensor in args[2:3] if isinstance(tensor, Tensor)]
        foreign = {home_of(tensor) for tensor in indices} - {home}
        wrong = [tensor for tensor in values if home_of(tensor) != home and (tensor.dim() or home is None)]
        if foreign - {None} or wrong:
            self._refuse_mix(func, {home, *foreign, *map(home_of, wrong)})
        if foreign:
            self.wait(f"{func.name()} by indices of the host")

    def _refuse_mix(self, func: Any, homes: set[Any]) -> None:
        names = " and ".join(sorted(str(home or HOST) for home in homes))
        self.refuse(
            f"Expected all tensors to be on the same device, but found at least two devices, {names}! ({func.name()})"
        )

    def _copied(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Copy between devices into a tensor that is there."""
        result = func(*args, **kwargs)
        target, source = args[0], args[1]
        if isinstance(target, Tensor):
            self.crossed(source, target, non_blocking=bool(args[2] if len(args) > 2 else kwargs.get("non_blocking")))
        else:
            self.wait(func.name())
        return result

    def crossed(self, source: Tensor, target: Tensor, *, non_blocking: bool) -> None:
        """Note a copy from one device to another."""
        where = home_of(source), home_of(target)
        if None not in where:  # between devices neither is waited for
            return
        if not non_blocking:
            self.wait("a copy to the host" if where[1] is None else "a copy from the host")
        elif where[1] is None:
            self._copies.to_host(target)
        elif getattr(storage_of(source), "pinned", False):
            self._copies.to_device(source)

    def _count(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        waits = name in _WAITING
        if name in _INDEXING:
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            # One mask with one number to write is filled in; else the places that a mask names are counted.
            filled = name.startswith("index_put") and len(args[1]) == 1 and args[2].numel() == 1
            waits = bool(masks) and not filled
        elif name == "repeat_interleave":
            waits = kwargs.get("output_size") is None
        elif name == "multinomial":
            waits = True  # it asks whether the weights are valid
        if waits:
            self.wait(func.name())

    def _drawn(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], device: torch.device | None) -> Any:
        """Run an operation; random numbers are those of the device's own generator, or of one that is given."""
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch._C.Generator)]
        for generator in given:
            self._check_generator(generator, device)
        if given or device is None:
            return func(*args, **kwargs)
        default = torch.default_generator
        before = default.get_state()
        default.set_state(self._generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self._generator.set_state(default.get_state())
            default.set_state(before)

    def _check_generator(self, generator: Any, device: torch.device | None) -> None:
        """Refuse numbers of a generator that is elsewhere."""
        known = GENERATORS.get(generator._cdata)  # operations are given another object for the same generator
        wanted, found = (device or HOST).type, (HOST if known is None else known.device).type
        if wanted != found:
            self.refuse(f"Expected a '{wanted}' device type for generator but found '{found}'")
