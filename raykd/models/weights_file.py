"""What files of weights hold: tensors, read without running anything that stands in them."""

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raykd.errors import CorruptError, UsageError
from raykd.files import MAX_JSON_BYTES, read_bytes, sha256_of
from raykd.tensors import read_tensors

CONVERT = (
    "load it where you trust it and save only the tensors: torch.save(model.state_dict(), FILE) or "
    "safetensors.torch.save_file(model.state_dict(), FILE)"
)
_INDEX = ".safetensors.index.json"


def read_weights(path: Path) -> object:
    """Return what a file holds: of .safetensors, their .index.json and .npz tensors by name, of torch files anything.

    Raises:
        UsageError: there is no such file, or it holds pickled code instead of tensors.
        CorruptError: it is truncated or damaged.
    """
    if not _is_there(path):
        raise UsageError(f"no weights file {path}")
    if path.name.endswith(_INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_arrays(path) if path.suffix == ".npz" else _read_torch(path)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file system takes
        return False


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    return read_tensors(path, "restore it from a backup")


def sum_of_weights(path: Path) -> str:
    """Return the sha256 sum of all that a file of weights stands for: of an index, of its own bytes and its files'.

    Raises:
        FileNotFoundError: if it is not there.
        UsageError: if it is an index of files that are not beside it.
        CorruptError: if it is damaged, or cannot be read.
    """
    own = sha256_of(path)
    if not path.name.endswith(_INDEX):
        return own
    names = shards_of(path)
    _require_beside(path, names)
    sums = [[name, sha256_of(path.parent / name)] for name in names]
    return hashlib.sha256(json.dumps([own, *sums]).encode()).hexdigest()


def shards_of(path: Path) -> list[str]:
    """Return the names of the files that an index names, which belong beside it; none of any other file, or of none.

    Raises:
        UsageError: if it names files that may not lie beside it.
        CorruptError: if it is damaged.
    """
    is_index = path.name.endswith(_INDEX) and _is_there(path)
    return sorted(set(_shard_names(path).values())) if is_index else []


def _shard_names(path: Path) -> Mapping[str, str]:
    """Return the file of each tensor that an index names."""
    try:
        found = json.loads(read_bytes(path, MAX_JSON_BYTES))["weight_map"]
        shards: Mapping[str, str] = {str(key): str(name) for key, name in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{path} is damaged or no index of safetensors files: {error}") from error
    for name in sorted(set(shards.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UsageError(f"{path} names the file {name!r}; an index may name .safetensors files beside it only")
    return shards


def _require_beside(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if not _is_there(path.parent / name):
            raise UsageError(f"{path} names {name}, which is not beside it: put all its files into one folder")


def _read_shards(path: Path) -> dict[str, Tensor]:
    """Read the files that an index names; a tensor that several of them have is that of the one it is said to be in."""
    shards, tensors = _shard_names(path), dict[str, Tensor]()
    names = sorted(set(shards.values()))
    _require_beside(path, names)
    for name in names:
        found = _read_safetensors(path.parent / name)
        tensors |= {key: tensor for key, tensor in found.items() if shards.get(key, name) == name}
    if missing := shards.keys() - tensors.keys():
        key = min(missing)
        raise CorruptError(f"{path} names {key} in {shards[key]}, which has no such tensor: fetch its files again")
    return tensors


def _read_arrays(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: torch.from_numpy(np.array(file[key], order="C")) for key in file.files}
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise UsageError(f"{path} holds pickled Python objects, not only arrays; {CONVERT}") from error
        raise CorruptError(f"{path} is damaged or no .npz file: {error}") from error
    except Exception as error:  # zipfile, zlib and numpy raise whatever such bytes make of their readers
        raise CorruptError(f"{path} is damaged or no .npz file: {error}") from error


def _read_torch(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80" and head[1:] not in (b"", b"\x02"):  # torch: a zip or protocol 2
        raise UsageError(f"{path} holds pickled Python objects, not only tensors; {CONVERT}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # In a whole archive, an instruction that torch refuses is code, not damage.
        if zipfile.is_zipfile(path) or "global" in str(error).lower():
            raise UsageError(f"{path} holds pickled Python objects, not only tensors; {CONVERT}") from error
        raise CorruptError(f"{path} is damaged or no torch file") from error
    except Exception as error:  # torch raises whatever such bytes make of its reader
        if "TorchScript" in str(error):
            raise UsageError(f"{path} is a TorchScript program, not weights; {CONVERT}") from error
        raise CorruptError(f"{path} is damaged or no torch file: {error}") from error
