"""Where a tensor is, in a pretence: storages that count as a device's memory bear a mark, all others are the host's.

A mark is an attribute of the storage, which is one object for as long as the memory lives: so views, ``.data``, what
autograd saves and what ``detach`` returns are where their base is, and nothing has to be copied to know it.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

PACKAGE = f"{Path(__file__).resolve().parent.parent.parent / 'raykd'}/"
HOST = torch.device("cpu")


class Sync(NamedTuple):
    """A place where the host waited for the device."""

    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.what} at {self.where}"


class WrongDevice(RuntimeError):
    """What CUDA says of tensors on several devices, in its words."""


def storage_of(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def home_of(tensor: Tensor) -> torch.device | None:
    """Return the device whose memory a tensor is in, or None for the host's."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return None
    home: torch.device | None = getattr(storage_of(tensor), "home", None)
    return home


def is_anywhere(tensor: Tensor) -> bool:
    """Tell whether nobody has asked for a tensor, so that nobody has said where it is."""
    return tensor.layout is torch.strided and not tensor.is_meta and getattr(storage_of(tensor), "anywhere", False)


def place(tensor: Tensor, home: torch.device | None) -> Tensor:
    """Say where a tensor's memory is, whatever was said before."""
    storage = storage_of(tensor)
    storage.home, storage.anywhere = home, False
    return tensor


def target_of(device: Any) -> torch.device | None:
    """Return the home that ``device=`` names; None for the host.

    Raises:
        RuntimeError: for a device that is not there.
    """
    if device is None:
        return None
    found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if found.type != "cuda":
        return None
    index = torch.cuda.current_device() if found.index is None else found.index
    if index >= torch.cuda.device_count():
        raise RuntimeError("CUDA error: invalid device ordinal")
    return torch.device("cuda", index)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def caller() -> str:
    """Return the line of the package from which a call came, or of a test where it came from none."""
    frame = sys._getframe(1)
    outermost = frame
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"raykd/{name.removeprefix(PACKAGE)}:{frame.f_lineno} ({frame.f_code.co_name})"
        outermost, frame = frame, frame.f_back  # type: ignore[assignment]
    return f"{outermost.f_code.co_filename}:{outermost.f_lineno}"


class Copies:
    """Copies that the host has ordered and not waited for."""

    def __init__(self) -> None:
        self.read: list[tuple[Any, bytes, str]] = []
        self.written: list[Any] = []

    def to_device(self, source: Tensor) -> None:
        """Remember what pinned memory holds: it must be the same until somebody has waited."""
        storage = storage_of(source)
        self.read.append((storage, _content(storage), caller()))

    def to_host(self, result: Tensor) -> None:
        """Remember memory of the host that holds nothing yet."""
        storage = storage_of(result)
        storage.in_flight = caller()
        self.written.append(storage)

    def settle(self) -> list[str]:
        """End all copies, as a wait does; return faults: what was overwritten before it was copied."""
        faults = [
            f"pinned memory was written before its copy to the device, ordered at {where}, was waited for"
            for storage, content, where in self.read
            if _content(storage) != content
        ]
        for storage in self.written:
            storage.in_flight = None
        self.read.clear()
        self.written.clear()
        return faults


def _content(storage: Any) -> bytes:
    return bytes(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())
