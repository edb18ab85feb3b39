"""How much memory this process may still take: of the machine, of its container, of a device.

Planning and loading both ask here, so that what was planned is what fits. Which errors say that there was none left.
"""

import os
import re
from pathlib import Path

import torch

_OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|allocate memory", re.IGNORECASE)
_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")
_ASSUMED = 4 * 2**30
"""Bytes taken to be free where nothing says so."""


def free_memory() -> int | None:
    """Return the bytes of main memory that this process may still take, or None where unknown.

    A container's limit counts as well as the machine: a pod that takes more than its limit is killed, however much
    memory its host has left.
    """
    known = [amount for amount in (_free_on_machine(), _free_in_container()) if amount is not None]
    return min(known, default=None)


def free_device_memory(device: torch.device) -> int:
    """Return the bytes that are free on the device (CPU: on this host), what torch holds in reserve included.

    Where the host does not say, 4 GiB are assumed.
    """
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    free = free_memory()
    return _ASSUMED if free is None else free


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the host or a device, of whatever make, had no memory left to give."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def _free_on_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return _physical_memory()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _free_in_container() -> int | None:
    """Return what is left of the control group's limit (version 2, else version 1), or None where it has none."""
    for folder, limit, used in (
        (_CONTAINER, "memory.max", "memory.current"),
        (_CONTAINER / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit_bytes, used_bytes = int((folder / limit).read_text()), int((folder / used).read_text())
        except (OSError, ValueError):  # no such group, or its limit is "max"
            continue
        return max(0, limit_bytes - used_bytes + _cached_files(folder))
    return None


def _cached_files(folder: Path) -> int:
    """Return the bytes of cached files in a group, which the kernel gives back when memory is short."""
    try:
        table = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(table.get("total_inactive_file", table.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0
