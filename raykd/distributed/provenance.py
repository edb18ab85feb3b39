"""Provenance of a run: versions, hardware, source revision. No host name, no path."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from raykd.distributed.world import World

_PACKAGES = (
    "raykd",
    "torch",
    "torchvision",
    "numpy",
    "pyarrow",
    "pydantic",
    "safetensors",
    "ray",
    "optuna",
)


def describe_environment(world: World) -> dict[str, Any]:
    """Return versions and hardware, ready for JSON."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None,
        "workers": world.size,
        "threads_per_worker": torch.get_num_threads(),
        "idle_threads": os.environ.get("OMP_WAIT_POLICY", "torch's own"),
        "precision": world.precision,
        "git": _revision(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _revision() -> str | None:
    """Return the commit of the source tree that raykd runs from, with ``+changes`` if it has any."""
    package_folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=package_folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "."],
            cwd=package_folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")
