"""What the machine is, and the rates that the speed of steps is measured against."""

import platform
import time
from importlib import metadata
from typing import Any

import torch
from gpu.parts import Parts
from gpu.site import Site

from raykd.distributed.host import compile_obstacle, float32_products
from raykd.distributed.provenance import describe_environment
from raykd.distributed.world import World

PACKAGES = ("raykd", "torch", "torchvision", "triton", "numpy", "pyarrow", "pydantic")
SIDE, SMALL_SIDE = 8192, 256  # of products
SECONDS = 1.0
COPIED, SMALL_COPIED = 2**31, 2**22  # bytes


def machine(parts: Parts, site: Site) -> None:
    """Describe the machine; measure products and copies."""
    parts.run("versions", lambda: versions(site))
    for precision in ("fp32", "tf32", "bf16"):
        parts.run(f"peak_{precision}", lambda precision=precision: peak(precision, site))  # type: ignore[misc]
    parts.run("copy", lambda: copy(site))


def versions(site: Site) -> dict[str, Any]:
    """Return names and versions of everything."""
    found = {name: version_of(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "packages": {name: version for name, version in found.items() if version is not None},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "compiler": compile_obstacle(site.device) or "there",
        "environment": describe_environment(World.current()),
        "gpu_bytes": torch.cuda.get_device_properties(0).total_memory if site.on_gpu else None,
    }


def version_of(package: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def peak(precision: str, site: Site) -> dict[str, Any]:
    """Return the rate of large products in operations per second."""
    side = SMALL_SIDE if site.small else SIDE
    a, b = torch.randn(2, side, side, device=site.device, dtype=torch.bfloat16 if precision == "bf16" else None)
    with float32_products(precision, torch.device(site.device)):
        seconds = per_call(lambda: torch.mm(a, b), site, SECONDS)
    return {"flop_per_second": 2 * side**3 / seconds, "side": side}


def copy(site: Site) -> dict[str, Any]:
    """Return the bytes per second that a copy within the device's memory reads and writes."""
    size = SMALL_COPIED if site.small else COPIED
    source = torch.zeros(size, dtype=torch.uint8, device=site.device)
    target = torch.empty_like(source)
    return {"bytes_per_second": 2 * size / per_call(lambda: target.copy_(source), site, SECONDS / 2)}


def per_call(call: Any, site: Site, least: float, warm_up: int = 3) -> float:
    """Return the seconds of a call: of the quickest of several rounds, after a warm-up."""
    for _ in range(warm_up):
        call()
    site.wait()
    best, calls, began = float("inf"), 1, time.perf_counter()
    while time.perf_counter() - began < least:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        site.wait()
        seconds = time.perf_counter() - start
        best = min(best, seconds / calls)
        if seconds < least / 8:
            calls *= 2
    return best
