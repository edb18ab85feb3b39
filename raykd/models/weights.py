"""Weights from a user's file, and architectures from a user's module.

A weights file gives tensors and nothing else; no code in it is ever executed.
"""

import importlib
import inspect
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raykd.errors import CorruptError, UsageError, did_you_mean
from raykd.models import in_memory
from raykd.surroundings import folder_searched

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
CONVERT = (
    "load it where you trust it and save only the tensors: torch.save(model.state_dict(), FILE) or "
    "safetensors.torch.save_file(model.state_dict(), FILE)"
)
MAX_LISTED = 3  # keys named in a message


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy the weights in ``path`` (.safetensors, else a torch file) into ``module``.

    Undoes the prefixes of DataParallel (``module.``) and torch.compile (``_orig_mod.``) and unwraps
    checkpoints that hold the weights under ``state_dict`` or ``model``.

    Raises:
        UsageError: no such file, pickled code instead of tensors, or another network's weights.
        CorruptError: the file is truncated or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no weights file {path}")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    expected = module.state_dict()
    state = _strip(_unwrap(read(path), path), expected)
    # Counters that files from before torch 0.4.1 lack; BatchNorm with a momentum never reads them.
    counters = {key: value for key, value in expected.items() if "num_batches_tracked" in key}
    state = {**counters, **state}
    _compare(state, expected, path)
    module.load_state_dict(state)


def load_factory(target: str, **kwargs: Any) -> nn.Module:
    """Call the function (or class) ``target``, written ``module:function``, and return its network.

    Of the arguments it is given those that it has parameters for.
    The module is looked for in the current directory, then on ``sys.path``; what it imports, in the standard
    library before both. ``in-memory:NAME`` is a network that this
    process was given as an object (see ``raykd.models.in_memory``).

    Raises:
        UsageError: no such module or function, arguments it does not take, or another result.
    """
    if target.startswith(in_memory.PREFIX):
        return in_memory.build_registered(target)
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"factory must be 'module:function', got {target!r}")
    with folder_searched(str(Path.cwd()), module_name):
        function = _find(module_name, attribute)
        taken = _taken(function, kwargs)
        try:
            inspect.signature(function).bind(**taken)
        except TypeError as error:
            raise UsageError(f"factory {target} cannot be called with {kwargs}: {error}") from error
        network = function(**taken)
    if not isinstance(network, nn.Module):
        raise UsageError(f"factory {target} returned a {type(network).__name__}; it must return an nn.Module")
    return network


def _taken(function: Callable[..., object], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return dict(kwargs)
    return {name: value for name, value in kwargs.items() if name in parameters}


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CorruptError(f"{path} is damaged or no safetensors file: {error}") from error


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


def _unwrap(loaded: object, path: Path) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        inner = [loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    if not isinstance(loaded, Mapping) or not loaded:
        raise UsageError(f"{path} holds a {type(loaded).__name__}, not a state dict; {CONVERT}")
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise UsageError(f"{path} holds entries that are no tensors ({', '.join(others[:MAX_LISTED])}); {CONVERT}")
    return {str(key): value for key, value in loaded.items()}


def _strip(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if state.keys() == expected.keys():
        return state
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    while all(key.startswith("module.") for key in state) and not state.keys() <= expected.keys():
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise unless both have the same keys and shapes."""
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        parts = [
            f"{len(keys)} {kind} ({', '.join(keys[:MAX_LISTED])}{', ...' if len(keys) > MAX_LISTED else ''})"
            for kind, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise UsageError(
            f"{path} is for another architecture: {' and '.join(parts)} keys; choose the model it was saved from"
        )
    wrong = [key for key in expected if state[key].shape != expected[key].shape]
    if not wrong:
        return
    key = wrong[-1]
    got, want = list(state[key].shape), list(expected[key].shape)
    # Nothing but the first sizes of the last layer differ: the same network for other classes.
    head = {name.rpartition(".")[0] for name in wrong}
    tail = list(expected)[-1].rpartition(".")[0]
    if head == {tail} and got[1:] == want[1:]:
        raise UsageError(
            f"{path} is for {got[0]} classes, the model was built for {want[0]}; "
            "choose the data the weights were trained on"
        )
    listed = ", ".join(
        f"{name}: {list(state[name].shape)} in the file, {list(expected[name].shape)} in the model"
        for name in wrong[:MAX_LISTED]
    )
    raise UsageError(
        f"{path} has {len(wrong)} tensors of other shapes ({listed}); choose the model and the data it was trained on"
    )


def _find(module_name: str, attribute: str) -> Callable[..., object]:
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise UsageError(f"factory module {module_name!r} needs {missing!r}: {error}") from error
        raise UsageError(
            f"no module {module_name!r} for the factory, neither in {Path.cwd()} nor on sys.path; "
            "install it or start from the directory that holds it"
        ) from error
    except Exception as error:  # the user's own code: it may fail in any way
        raise UsageError(f"importing factory module {module_name!r} failed: {type(error).__name__}: {error}") from error
    candidate = getattr(module, attribute, None)
    if not callable(candidate):
        hint = did_you_mean(attribute, [name for name in vars(module) if not name.startswith("_")])
        raise UsageError(f"module {module_name!r} has no function {attribute!r}{hint}")
    function: Callable[..., object] = candidate
    return function
