"""Checkpoints that are whole or recognised as torn: files first, a manifest with their sha256 sums last.

    checkpoints/step_0001200/  last.safetensors blind.safetensors best.safetensors state.pt manifest.json
                               shard_00000.safetensors ... of what each worker alone holds

Nothing in them can execute, and no path is stored, so a run directory may be moved.
"""

import logging
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raykd.data.image_pool import PoolPart
from raykd.distributed.memory import is_out_of_memory
from raykd.errors import CorruptError, SetupError
from raykd.files import MANIFEST, check_names, describe, is_folder, parse_content, read_json, sha256_of, write_json
from raykd.tensors import read_tensors

logger = logging.getLogger(__name__)

POOL = "pool"
"""The folder, beside that of the checkpoints, of the images that they name."""
IMAGES_REMOVED = "images_removed"
"""Field of the status of a run whose pool was removed: by whom."""
KEPT = 2
"""Checkpoints that a run keeps; while one is written there is one more."""
_STEP = "step_"
_PART = "images-"
_STATE = "state.pt"
_RESTORE = "restore the checkpoint from a backup, or remove it to go on from the one before it"


class UnfitCheckpoint(CorruptError):
    """A checkpoint that is as it was written, and whose content is not that of its run."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on: ``state`` of plain numbers and tensors, and named sets of weights.

    ``shard`` is what this worker alone holds, when written, and that of all workers, when read. On other ranks than 0
    nothing else is filled in. ``products`` (this worker's), ``samples`` (a PNG) and ``warnings`` are published beside
    the checkpoint, not part of it; the one of ``kept_step`` stays where others are removed. ``images`` (this worker's)
    are added to the run's pool, of which a checkpoint names the files that count.
    """

    step: int
    world_size: int
    weights: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]
    samples: bytes | None = None
    shard: Mapping[str, Tensor] = field(default_factory=dict)
    products: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    kept_step: int | None = None
    images: PoolPart | None = None


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
    for earlier in folder.glob(".shards-*"):  # of a machine that writes no checkpoints, which sends its shards away
        if earlier.name < path.parent.name:
            _remove(earlier)
    save_weights(checkpoint.shard, path)
    return {path.name: _fingerprint(path)}


def write_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    shards: Sums | None = None,
    *,
    elsewhere: bool = False,
    pool: Sums | None = None,
) -> Path:
    """Write into ``folder``/step_N, which appears under that name only when it is complete.

    Of those that are there the one before it stays, and that of its ``kept_step``; later ones, which the run has passed
    over as unfit, are removed.

    ``shards`` are the sums of all workers' ``write_shard``, which has left those files here, or ``elsewhere``: then
    workers of other machines have sent theirs to the store. ``pool`` are the sums of all files of the run's pool that
    count at this step.

    Raises:
        SetupError: if the disk does not take it; what was there before is untouched.
    """
    final = folder / step_name(checkpoint.step)
    staging = folder / f".writing-{final.name}"
    _remove(staging)
    try:
        staging.mkdir(parents=True)
        for name, weights in checkpoint.weights.items():
            save_weights(weights, staging / f"{name}.safetensors")
        with (staging / _STATE).open("wb") as file:  # where torch opens it itself, the system's reason is lost
            torch.save(dict(checkpoint.state), file)
        files = {path.name: _fingerprint(path) for path in sorted(staging.iterdir())}
        for name in shards or {}:
            waiting = shard_path(folder, checkpoint.step, name)
            if not elsewhere or waiting.is_file():
                waiting.rename(staging / name)
        files |= shards or {}
        manifest = {"step": checkpoint.step, "world_size": checkpoint.world_size, "files": files}
        if pool:
            manifest["pool"] = pool
        write_json(staging / MANIFEST, manifest)
        _remove(final)
        staging.rename(final)
    except (OSError, RuntimeError, SafetensorError) as error:
        _remove(staging)
        raise SetupError(
            f"could not write checkpoint {final.name} in {folder} ({describe(error)}); the one before it is intact: "
            "free some space or mend the storage, then run the same command"
        ) from None
    # What is of a later step was passed over to come here: it must not outlive this one and be found again.
    steps = _steps(folder)
    kept = [path for path in steps if step_of(path) <= checkpoint.step][-KEPT:]
    kept += [path for path in steps if step_of(path) == checkpoint.kept_step]
    for old in [*(path for path in steps if path not in kept), *folder.glob(".shards-*")]:
        _remove(old)
    return final


def sweep_checkpoints(folder: Path) -> None:
    """Remove checkpoints and shards that processes which died were writing; whoever calls holds the run's lock."""
    for path in (*folder.glob(".writing-*"), *folder.glob(".shards-*")):
        with suppress(OSError):
            _remove(path)


def newest_whole(folder: Path, last: int) -> int:
    """Return the step of the newest whole checkpoint of a step up to ``last``, or 0."""
    return next(
        (step_of(path) for path in reversed(_steps(folder)) if step_of(path) <= last and not find_fault(path)), 0
    )


def remove_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps."""
    for path in _steps(folder):
        if step_of(path) > step:
            _remove(path)


def latest_checkpoint(folder: Path, before: int | None = None) -> Path | None:
    """Return the newest checkpoint that its manifest confirms and that can be read; say which ones were passed over.

    Args:
        folder: of the run's checkpoints; it need not be there.
        before: step from which on they are passed over, since they were found unfit.

    Raises:
        CorruptError: if there are checkpoints and none is whole.
    """
    if not is_folder(folder):
        return None
    candidates, faults, lost = _steps(folder), [], None
    for path in reversed(candidates):
        unfit = before is not None and step_of(path) >= before
        fault = "its content is not this run's" if unfit else _own_fault(path)
        if fault is None:
            fault = _pool_fault(path)
            lost = lost or fault
        if fault is None:
            return path
        faults.append(f"{path.name}: {fault}")
        if not unfit:
            logger.warning("checkpoint %s is damaged (%s); using the one before it", path.name, fault)
    if lost:  # all checkpoints name the images of long ago, and nothing but that file is wanting
        raise CorruptError(
            f"images of the run {folder.parent} are damaged ({lost}), and no checkpoint is without them; restore that "
            "file from a backup, and the run goes on: its checkpoints and all other images need nothing"
        )
    if candidates:
        raise CorruptError(
            f"no whole checkpoint in {folder} ({'; '.join(reversed(faults))}); "
            "restore one from a backup, or delete that folder to start the run again"
        )
    return None


def find_fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint directory, or with the images that it names, naming the file, or None."""
    return _own_fault(path) or _pool_fault(path)


def _own_fault(path: Path) -> str | None:
    try:
        manifest = _read_manifest(path)
    except FileNotFoundError:
        return f"{MANIFEST} is missing: the write was cut off"
    except CorruptError:
        return f"{MANIFEST} is not readable"
    if manifest["step"] != step_of(path):
        return f"{MANIFEST} speaks of step {manifest['step']}"
    return _first_fault(path, path, manifest["files"])


def _pool_fault(path: Path) -> str | None:
    """Return what is wrong with the images that a checkpoint names, whose own files are whole."""
    return _first_fault(path.parent.parent / POOL, path.parent.parent, pool_files(path))


def _first_fault(folder: Path, named_from: Path, files: Sums) -> str | None:
    """Return which of the files of a folder is not as its sum says, and how; None if all are."""
    for name, expected in files.items():
        file = folder / name
        shown = file.relative_to(named_from)
        if not file.is_file():
            return f"{shown} is missing"
        try:
            if _fingerprint(file) != expected:
                return f"{shown} differs from its checksum"
            _look_into(file)
        except (OSError, ValueError, SafetensorError, CorruptError) as error:
            return f"{shown} cannot be read: {describe(error)}"
    return None


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint, which has a state at least."""
    file = path / MANIFEST
    found = read_json(file, _RESTORE)

    def read() -> dict[str, Any]:
        files, pool = (
            {str(name): dict(expected) for name, expected in found.get(part, {}).items()} for part in ("files", "pool")
        )
        files[_STATE]  # what is not vouched for is not read
        check_names([*files, *pool])
        return {"step": int(found["step"]), "world_size": int(found["world_size"]), "files": files, "pool": pool}

    return parse_content(file, _RESTORE, read)  # type: ignore[no-any-return]


def has_all_files(path: Path) -> bool:
    """Tell whether a checkpoint has a manifest that can be read, and all files that it names are there."""
    try:
        manifest = _read_manifest(path)
    except (FileNotFoundError, CorruptError):
        return False
    folders = {"files": path, "pool": path.parent.parent / POOL}
    return all((folder / name).is_file() for part, folder in folders.items() for name in manifest[part])


def manifest_files(path: Path) -> Sums:
    """Return what a checkpoint's manifest says of its files; empty where there is none that can be read."""
    try:
        return _read_manifest(path)["files"]  # type: ignore[no-any-return]
    except (FileNotFoundError, CorruptError):
        return {}


def pool_files(path: Path) -> Sums:
    """Return the sums of the files of the run's pool that count at a checkpoint.

    Raises:
        CorruptError: if its manifest is damaged.
    """
    return _read_manifest(path)["pool"]  # type: ignore[no-any-return]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that ``latest_checkpoint`` has verified.

    Raises:
        CorruptError: if a file is not what its name says.
    """
    manifest = _read_manifest(path)
    files = [path / name for name in sorted(manifest["files"]) if name.endswith(".safetensors")]
    shards = [file for file in files if file.name.startswith("shard_")]
    weights = {file.stem: read_tensors(file, _RESTORE) for file in files if file not in shards}
    state = parse_content(path / _STATE, _RESTORE, lambda: _read_state(path / _STATE))
    return Checkpoint(manifest["step"], manifest["world_size"], weights, state, shard=_Parts(shards))


def _look_into(path: Path) -> None:
    """See whether a file is what its name says, without reading all of it.

    Raises:
        OSError, ValueError, SafetensorError: if it is not.
    """
    if path.name == _STATE:
        _read_state(path, mmap=True)
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt"):
            pass


def _read_state(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        raise ValueError("it holds pickled Python objects, not only tensors") from None
    except Exception as error:  # torch raises whatever such bytes make of its reader
        if is_out_of_memory(error):
            raise
        raise ValueError(describe(error)) from None
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}, not an object")
    return state


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, on the CPU and each with memory of its own."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    save_file(own, path, dict(metadata) if metadata else None)


def is_checkpoint(path: PurePath) -> bool:
    """Tell by its name alone whether a directory is a checkpoint, not a copy made by hand or one half written."""
    return path.name.startswith(_STEP) and path.name.removeprefix(_STEP).isdecimal()


def step_of(path: PurePath) -> int:
    """Return the step that a checkpoint directory is named by."""
    return int(path.name.removeprefix(_STEP))


def part_name(step: int, rank: int) -> str:
    """Return what the file of a worker's new images is called, of the checkpoint of a step."""
    return f"{_PART}{step:07d}-{rank:05d}.parquet"


def step_of_part(name: str) -> int | None:
    """Return the step that a file of a pool is named by; None where it is named otherwise."""
    step = name.removeprefix(_PART).partition("-")[0]
    return int(step) if name.startswith(_PART) and step.isdecimal() else None


def step_name(step: int) -> str:
    """Return what the checkpoint directory of a step is called."""
    return f"{_STEP}{step:07d}"


def shard_path(folder: Path, step: int, name: str) -> Path:
    """Return where a worker's shard waits until the checkpoint of its step is written."""
    return folder / f".shards-{step:07d}" / name


def _remove(path: Path) -> None:
    """Remove what is there, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _steps(folder: Path) -> list[Path]:
    return sorted(filter(is_checkpoint, folder.glob(f"{_STEP}*")), key=step_of)


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}
