"""Checkpoints that are whole or recognised as torn: files first, a manifest with their sha256 sums last.

    checkpoints/step_0001200/  last.safetensors blind.safetensors best.safetensors state.pt manifest.json
                               shard_00000.safetensors ... of what each worker alone holds

Nothing in them can execute, and no path is stored, so a run directory may be moved.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from raykd.errors import CorruptError, SetupError
from raykd.files import MANIFEST, read_json, sha256_of, write_text

logger = logging.getLogger(__name__)

_KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on: ``state`` of plain numbers and tensors, and named sets of weights.

    ``shard`` is what this worker alone holds, when written, and that of all workers, when read. On other ranks than 0
    nothing else is filled in. ``products`` (this worker's) and ``samples`` (a PNG) are published beside the
    checkpoint, not part of it.
    """

    step: int
    world_size: int
    weights: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]
    samples: bytes | None = None
    shard: Mapping[str, Tensor] = field(default_factory=dict)
    products: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


Sums = dict[str, dict[str, Any]]
"""Per file its sha256 and number of bytes."""


class _Parts(Mapping[str, Tensor]):
    """The tensors of several files by name, each read when asked for: a worker wants few of them."""

    def __init__(self, paths: list[Path]) -> None:
        files: list[Any] = [safe_open(path, "pt") for path in paths]
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (it is no mapping)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def write_shard(folder: Path, checkpoint: Checkpoint, rank: int) -> Sums:
    """Write this worker's shard, if it has any, where ``write_checkpoint`` finds it; return the file's sum."""
    if not checkpoint.shard:
        return {}
    path = shard_path(folder, checkpoint.step, f"shard_{rank:05d}.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(checkpoint.shard, path)
    return {path.name: _fingerprint(path)}


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, shards: Sums | None = None, *, elsewhere: bool = False
) -> Path:
    """Write into ``folder``/step_N, which appears under that name only when it is complete.

    ``shards`` are the sums of all workers' ``write_shard``, which has left those files here, or ``elsewhere``: then
    workers of other machines have sent theirs to the store.

    Raises:
        SetupError: if the disk does not take it; what was there before is untouched.
    """
    final = folder / step_name(checkpoint.step)
    staging = folder / f".writing-{final.name}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        for name, weights in checkpoint.weights.items():
            save_weights(weights, staging / f"{name}.safetensors")
        torch.save(dict(checkpoint.state), staging / "state.pt")
        files = {path.name: _fingerprint(path) for path in sorted(staging.iterdir())}
        for name in shards or {}:
            waiting = shard_path(folder, checkpoint.step, name)
            if not elsewhere or waiting.is_file():
                waiting.rename(staging / name)
        files |= shards or {}
        manifest = {"step": checkpoint.step, "world_size": checkpoint.world_size, "files": files}
        write_text(staging / MANIFEST, json.dumps(manifest, indent=1))
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise SetupError(
            f"could not write checkpoint {final.name} ({error}); the one before it is intact: "
            "free some space or mend the storage, then run the same command"
        ) from None
    for old in [*_steps(folder)[:-_KEEP], *folder.glob(".shards-*")]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that its manifest confirms; say which ones were passed over.

    Raises:
        CorruptError: if there are checkpoints and none is whole.
    """
    candidates = _steps(folder)
    for path in reversed(candidates):
        fault = find_fault(path)
        if fault is None:
            return path
        logger.warning("checkpoint %s is damaged (%s); using the one before it", path.name, fault)
    if candidates:
        raise CorruptError(
            f"no whole checkpoint among {[p.name for p in candidates]} in {folder.parent.name}/checkpoints; "
            "restore one from a backup, or delete that folder to start the run again"
        )
    return None


def find_fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint directory, naming the file, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files, step = dict(manifest["files"]), int(manifest["step"])
    except FileNotFoundError:
        return f"{MANIFEST} is missing: the write was cut off"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{MANIFEST} is not readable"
    if step != step_of(path):
        return f"{MANIFEST} speaks of step {step}"
    for name, expected in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _fingerprint(path / name) != expected:
            return f"{name} differs from its checksum"
    return None


def manifest_files(path: Path) -> Sums:
    """Return what a checkpoint's manifest says of its files; empty where there is none that can be read."""
    try:
        files = read_json(path / MANIFEST, "the checkpoint is left out")["files"]
        return {str(name): dict(expected) for name, expected in files.items()}
    except (OSError, CorruptError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that ``latest_checkpoint`` has verified."""
    manifest = json.loads((path / MANIFEST).read_text())
    shards = sorted(path.glob("shard_*.safetensors"))
    weights = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors")) if file not in shards}
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return Checkpoint(manifest["step"], manifest["world_size"], weights, state, shard=_Parts(shards))


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, on the CPU and each with memory of its own."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    save_file(own, path, dict(metadata) if metadata else None)


def step_of(path: Path) -> int:
    """Return the step that a checkpoint directory is named by."""
    return int(path.name.removeprefix("step_"))


def step_name(step: int) -> str:
    """Return what the checkpoint directory of a step is called."""
    return f"step_{step:07d}"


def shard_path(folder: Path, step: int, name: str) -> Path:
    """Return where a worker's shard waits until the checkpoint of its step is written."""
    return folder / f".shards-{step:07d}" / name


def _steps(folder: Path) -> list[Path]:
    steps = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdecimal()]
    return sorted(steps, key=step_of)


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}
