"""Settings of this process and machine that make the same mathematics faster.

Nothing here happens at import, and every setting is given up rather than guessed where the
platform is another: it is safe to call `prepare_host` anywhere, once, before the first tensor.
"""

import ctypes
import logging
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from raykd.surroundings import name_user

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1

_FLOAT32_ERROR = 1e-5
"""Largest relative error of a product that is still float32 arithmetic (bfloat16 gives 4e-3)."""


@dataclass(frozen=True)
class HostReport:
    """What `prepare_host` did.

    Attributes:
        threads: intra-op threads of torch.
        allocator: "resident" when freed memory stays with the process, else "default".
        matmul: "onednn" when float32 products were moved there, else "default".
        matmul_error: relative error of float32 products through oneDNN; None when not tried.
    """

    threads: int
    allocator: str
    matmul: str
    matmul_error: float | None


def usable_cores() -> int:
    """Return how many cores this process may use; all of them where the system does not tell, as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_a_worker() -> int:
    """Return this process's share of the cores, 1 or more: launchers say in LOCAL_WORLD_SIZE how many share them."""
    workers = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, usable_cores() // max(1, int(workers) if workers.isdecimal() else 1))


def prepare_host(threads: int | None = None) -> HostReport:
    """Set threads, allocator and matrix-product library of this process; idempotent.

    The allocator setting cannot be undone: resident memory no longer shrinks before the exit.

    Args:
        threads: intra-op threads, or None to leave torch's own choice.
    """
    name_user()
    if threads is not None:
        torch.set_num_threads(threads)
    resident = keep_freed_memory()
    routed, error = _route_products_to_onednn()
    return HostReport(
        threads=torch.get_num_threads(),
        allocator="resident" if resident else "default",
        matmul="onednn" if routed else "default",
        matmul_error=error,
    )


@contextmanager
def preserved_process() -> Iterator[None]:
    """Leave a process that is somebody else's as it was: torch's random numbers, Ray's variables, levels of logs.

    What tells of Ray's token stays: the library has read it once and for all.
    """
    environment = _variables_of_ray()
    loggers = [logging.getLogger(name) for name in ("optuna", "ray", "ray.tune.tune")]
    levels = [logger.level for logger in loggers]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for name in _variables_of_ray().keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """Let a GPU compute float32 products in TF32 where ``precision`` is tf32; afterwards they are as they were."""
    if precision != "tf32" or device.type != "cuda":
        yield
        return
    products = torch.backends.cuda.matmul
    # torch 2.9 and newer refuse the older switch to a process that has used the newer one, as for a CPU's products.
    name, wanted = ("fp32_precision", "tf32") if hasattr(products, "fp32_precision") else ("allow_tf32", True)
    before = getattr(products, name)
    setattr(products, name, wanted)
    try:
        yield
    finally:
        setattr(products, name, before)


def _variables_of_ray() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.startswith(("RAY_", "TUNE_")) and not k.startswith("RAY_AUTH_")}


def compile_obstacle(device: str = "cpu") -> str | None:
    """Return what `torch.compile` lacks here and what to do about it, or None when nothing."""
    if torch.device(device).type != "cpu":
        if find_spec("triton") is None:
            return "triton is not installed; pip install triton"
        # Triton compiles its launcher in C.
        names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
        if not any(map(shutil.which, names)):
            return "no C compiler on PATH; install gcc or set CC"
    else:
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            return f"no C++ compiler {compiler!r} on PATH; install one or set CXX"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "the headers of Python are missing; install python3-dev or its like"
    return None


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of returning it to the kernel.

    By default every tensor above 32 MiB is mapped, faulted in page by page and unmapped on each
    use, which costs more than computing it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def _route_products_to_onednn() -> tuple[bool, float | None]:
    """Move float32 products from MKL to oneDNN where both are equally exact.

    MKL stays far below the vector rate of AMD processors. The only setting that moves products is
    the permission to use bfloat16; processors without matrix units for it compute in float32 all
    the same, which is measured before it is trusted.

    Returns:
        Whether products are moved, and their relative error when moving was possible.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(settings, "fp32_precision", None)
    # Where a GPU computes there is nothing to gain, and torch's older precision settings stay readable.
    if before is None or torch.cuda.is_available() or not torch.backends.mkldnn.is_available():
        return False, None
    settings.fp32_precision = "bf16"
    error = product_error()
    routed = error < _FLOAT32_ERROR
    if not routed:
        settings.fp32_precision = before
    return routed, error


def product_error() -> float:
    """Return the largest relative error of a 512 x 512 float32 product."""
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 512, 512, generator=rng)
    exact = a.double() @ b.double()
    return float((a @ b - exact).abs().max() / exact.abs().max())
