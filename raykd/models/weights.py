"""Weights from a user's file.

A weights file gives tensors and nothing else; no code in it is ever executed. What stands in it is matched with the
network by names and shapes, whoever wrote it; whatever was undone or left out on the way is logged.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from raykd.errors import UsageError
from raykd.models import find_model
from raykd.models.key_layouts import LAYOUTS
from raykd.models.weights_file import CONVERT, read_weights

logger = logging.getLogger(__name__)

PREFIXES = ("module", "_orig_mod", "model", "net", "network", "backbone", "student", "teacher")
"""What wrappers of networks (DataParallel, torch.compile, Lightning, ...) put in front of their names."""
AVERAGED = ("ema", "swa", "averag")
"""How entries of weights that were averaged over training are called."""
_OF_OPTIMIZERS = ("optim", "sched", "scaler", "amp")
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
"""Last parts of the names of counters that inference never reads: of BatchNorm, profilers and averaging."""
_SIDE_HEADS = {"aux", "aux1", "aux2", "AuxLogits", "aux_classifier"}
"""First parts of the names of heads that only train a network."""
MAX_LISTED = 3  # keys named in a message
_MAX_DEPTH = 4
_MAX_PREFIXES = 16

State = Mapping[str, Tensor]
MapKeys = Literal["name", "order"]


class _Candidate(NamedTuple):
    """A group of tensors in a file: the entry that it lies under ("" at the top), and what lies beside them."""

    entry: str
    state: State
    others: Sequence[str]

    @property
    def is_averaged(self) -> bool:
        return any(word in self.entry.lower() for word in AVERAGED)


def load_weights(module: nn.Module, path: str | Path, *, entry: str | None = None, map_keys: MapKeys = "name") -> None:
    """Copy the weights in a file into ``module``, in its own precision.

    The file is .safetensors, its .index.json, .npz, or a torch file of tensors. Wrappers around the weights, prefixes
    of their names and the layouts of common repositories (see ``raykd.models.key_layouts``) are undone where names and
    shapes then fit in full; counters and side heads that the network lacks are left out.

    Args:
        module: the network.
        path: the file.
        entry: which group of tensors of a file with several, as in ``model_ema``; default: the one that fits, raw
            weights before averaged ones.
        map_keys: "order" pairs the tensors one after the other, whatever they are called.

    Raises:
        UsageError: no such file or entry, pickled code instead of tensors, or another network's weights.
        CorruptError: the file is truncated or damaged.
    """
    path = Path(path)
    loaded = read_weights(path)
    candidates = _choose(list(_find_tensors(loaded, path)), entry, path, loaded)
    expected = module.state_dict()
    fits = [(candidate, _match(candidate.state, expected, map_keys, path)) for candidate in candidates]
    whole = [(candidate, fit) for candidate, fit in fits if not _faults(fit.state, expected)]
    if not whole:
        candidate, fit = max(fits, key=lambda pair: len(pair[1].state.keys() & expected.keys()))
        raise _misfit(fit, expected, candidate, path)
    candidate, fit = min(whole, key=lambda pair: pair[0].is_averaged)
    for other, _ in whole:
        if other.is_averaged and not candidate.is_averaged:
            logger.info(
                "%s holds averaged weights (%s) beside the raw ones (%s), which are taken; set 'entry: %s' to take the "
                "averaged ones", path, other.entry, candidate.entry, other.entry,
            )  # fmt: skip
    if fit.how:
        logger.info("%s: %s", path, fit.how)
    if left_out := [*candidate.others, *(key for key in fit.left_out if "num_batches" not in key)]:
        logger.info("%s: left out, since no network has them: %s", path, _listed(left_out))
    _check_values(fit.state, expected, path)
    module.load_state_dict({**{key: expected[key] for key in expected if _is_counter(key)}, **fit.state})


def guess_model(path: str | Path, entry: str | None = None) -> str | None:
    """Return the name of the built-in model whose weights a file may hold, by their shapes; None without.

    Args:
        path: the file.
        entry: as of ``load_weights``.

    Raises:
        UsageError, CorruptError: as ``load_weights``.
    """
    path = Path(path)
    loaded = read_weights(path)
    for candidate in _choose(list(_find_tensors(loaded, path)), entry, path, loaded):
        shapes = [tuple(tensor.shape) for key, tensor in candidate.state.items() if not _is_counter(key)]
        if (found := find_model(shapes)) is not None:
            return found
    return None


def _check_values(state: State, expected: State, path: Path) -> None:
    """Refuse tensors that would be copied into others of another kind, which changes or loses their values."""
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            kind = "quantised" if value.is_quantized else "empty (meta)" if value.is_meta else "sparse"
            raise UsageError(f"{path}: {key} is {kind}; save it as plain numbers: tensor.to_dense() or dequantize()")
        if expected[key].is_floating_point() and not value.is_floating_point():
            raise UsageError(f"{path}: {key} holds {value.dtype}, and the network's are floats; save it as such")
        if _overflows(value, expected[key].dtype):
            raise UsageError(
                f"{path}: {key} holds {value.dtype} beyond the range of the network's {expected[key].dtype}, in which "
                "they would be infinite: give the weights of a sound training"
            )


def _overflows(value: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether finite numbers would be infinite as ``dtype``."""
    if not (value.is_floating_point() and dtype.is_floating_point):
        return False
    most = torch.finfo(dtype).max
    return torch.finfo(value.dtype).max > most and bool((value.isfinite() & (value.abs() > most)).any())


def _find_tensors(
    loaded: object, path: Path, entry: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[_Candidate]:
    """Yield the groups of tensors in what a file held, the outer ones first; none within itself."""
    if not isinstance(loaded, Mapping) or not loaded:
        if depth == 0:
            raise UsageError(f"{path} holds a {type(loaded).__name__}, not a state dict; {CONVERT}")
        return
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    inner = {str(key): value for key, value in loaded.items() if isinstance(value, Mapping)}
    if tensors:
        yield _Candidate(entry, tensors, [str(key) for key in loaded if str(key) not in tensors])
    seen = {id(loaded)} if seen is None else seen
    for key, value in inner.items():
        # Two entries of a file may be one: averages that are the weights themselves in the first epochs.
        is_new = id(value) not in seen or (depth == 0 and value is not loaded)
        seen.add(id(value))
        if is_new and depth < _MAX_DEPTH and not any(word in key.lower() for word in _OF_OPTIMIZERS):
            yield from _find_tensors(value, path, f"{entry}.{key}".lstrip("."), depth + 1, seen)


def _choose(candidates: list[_Candidate], entry: str | None, path: Path, loaded: Any) -> list[_Candidate]:
    if not candidates:
        raise UsageError(f"{path} holds entries that are no tensors ({_listed(list(map(str, loaded)))}); {CONVERT}")
    if entry is None:
        return candidates
    chosen = [candidate for candidate in candidates if candidate.entry == entry]
    if not chosen:
        known = [candidate.entry for candidate in candidates if candidate.entry]
        raise UsageError(f"{path} has no entry {entry!r} of weights; it has {', '.join(known) or 'none by name'}")
    return chosen


class _Fit(NamedTuple):
    """Tensors under the network's names, what was done to have them so, and the keys left out."""

    state: State
    how: str = ""
    left_out: Sequence[str] = ()


def _match(state: State, expected: State, map_keys: MapKeys, path: Path) -> _Fit:
    """Return the tensors of a file by the names of the network, as far as they can be told."""
    if map_keys == "order":
        return _by_order(state, expected, path)
    kept, left_out = _drop_extras(_strip(state, expected), expected)
    if _faults(kept, expected):
        for layout in LAYOUTS:
            renamed = _renamed(kept, layout.rename(kept), expected)
            if not _faults(renamed, expected):
                return _Fit(renamed, f"its names are those of {layout.name}", left_out)
    return _Fit(kept, "", left_out)


def _renamed(state: State, names: Mapping[str, str], expected: State) -> State:
    renamed = {names.get(key, key): value for key, value in state.items()}
    return _drop_extras(renamed, expected)[0] if len(renamed) == len(state) else state


def _strip(state: State, expected: State) -> State:
    """Undo what wrappers put in front of names, each name by itself; where two would become one, undo nothing."""
    prefixes = {*PREFIXES, *(_shared_first_part(state) - {key.partition(".")[0] for key in expected})}
    outer = _shared_first_part(expected)  # of a network that wraps another itself

    def stripped(key: str) -> str:
        bare = key if key in expected else key.replace("_orig_mod.", "")
        for _ in range(_MAX_PREFIXES):
            if bare in expected:
                break
            if within := [f"{name}.{bare}" for name in outer if f"{name}.{bare}" in expected]:
                return within[0]
            first, dot, rest = bare.partition(".")
            if not dot or first not in prefixes:
                break
            bare = rest
        return bare

    names = {key: stripped(key) for key in state}
    if len(set(names.values())) < len(names):
        return state
    return {names[key]: value for key, value in state.items()}


def _shared_first_part(state: State) -> set[str]:
    """Return the first part of all names, counters aside, if it is the same one; else nothing."""
    found = {key.partition(".")[0] for key in state if not _is_counter(key)}
    return found if len(found) == 1 else set()


def _drop_extras(state: State, expected: State) -> tuple[State, list[str]]:
    """Leave out counters and side heads that the network lacks; return the rest, and what was left out."""
    side_heads = _SIDE_HEADS - {key.partition(".")[0] for key in expected}
    extras = [
        key
        for key in state
        if (_is_counter(key) and (key not in expected or _differs(key, state, expected)))
        or (key not in expected and key.partition(".")[0] in side_heads)
    ]
    return {key: value for key, value in state.items() if key not in extras}, extras


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] in _COUNTERS


def _by_order(state: State, expected: State, path: Path) -> _Fit:
    """Pair tensors one after the other; which is only told from files that keep their order."""
    if ".safetensors" in path.name or path.suffix == ".npz":
        raise UsageError(
            f"{path} sorts its tensors by name, so their order says nothing: use 'map_keys: order' with a torch file "
            "(torch.save(model.state_dict(), FILE))"
        )
    ours = [key for key in expected if not _is_counter(key)]
    theirs = [key for key in state if not _is_counter(key)]
    pairs = dict(zip(theirs, ours, strict=False))
    if _order_decides(state, expected):
        changed = sum(key != name for key, name in pairs.items())
        how = f"{changed} of its {len(theirs)} tensors are paired by their order, as in {theirs[-1]} -> {ours[-1]}"
        return _Fit({name: state[key] for key, name in pairs.items()}, how)
    if len(theirs) != len(ours):
        raise UsageError(f"{path} has {len(theirs)} tensors, the network {len(ours)}: no order pairs them")
    key = next(key for key, name in pairs.items() if state[key].shape != expected[name].shape)
    raise UsageError(
        f"{path} has other shapes in this order: {key} is {list(state[key].shape)}, and {pairs[key]} in its place is "
        f"{list(expected[pairs[key]].shape)}; choose the model it was saved from"
    )


def _order_decides(state: State, expected: State) -> bool:
    """Return whether the tensors of both have the same shapes one after the other, counters aside."""
    ours = [tensor.shape for key, tensor in expected.items() if not _is_counter(key)]
    return ours == [tensor.shape for key, tensor in state.items() if not _is_counter(key)]


def _faults(state: State, expected: State) -> list[str]:
    """Return the names that only one of both has, or whose shapes differ; counters aside."""
    missing = [key for key in expected if key not in state and not _is_counter(key)]
    unexpected = [key for key in state if key not in expected]
    return missing + unexpected + [key for key in expected.keys() & state.keys() if _differs(key, state, expected)]


def _differs(key: str, state: State, expected: State) -> bool:
    return state[key].shape != expected[key].shape


def _misfit(fit: _Fit, expected: State, candidate: _Candidate, path: Path) -> UsageError:
    """Return the error that says how the weights of a file and a network differ, and what to do."""
    state = fit.state
    missing = [key for key in expected if key not in state and not _is_counter(key)]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        kinds = (("missing", missing), ("unexpected", unexpected))
        parts = " and ".join(f"{len(keys)} {kind} ({_listed(keys)})" for kind, keys in kinds if keys)
        if _order_decides(candidate.state, expected):
            sorted_file = ".safetensors" in path.name or path.suffix == ".npz"
            advice = (
                "but shapes of the same order: if it is this network, save it as a torch file, which keeps the order, "
                "and set 'map_keys: order'" if sorted_file else
                "but the same shapes in the same order: if it is this network, set 'map_keys: order'"
            )  # fmt: skip
            return UsageError(f"{path} has other names ({parts} keys), {advice}")
        return UsageError(
            f"{path} is for another architecture: {parts} keys; {_suggestion(state)}choose the model it was saved from"
        )
    wrong = [key for key in expected if key in state and _differs(key, state, expected)]
    key = wrong[-1]
    got, want = list(state[key].shape), list(expected[key].shape)
    # Nothing but the first sizes of the last layer differ: the same network for other classes.
    head = {name.rpartition(".")[0] for name in wrong}
    tail = list(expected)[-1].rpartition(".")[0]
    if head == {tail} and got[1:] == want[1:]:
        return UsageError(
            f"{path} is for {got[0]} classes, the model was built for {want[0]}; "
            "choose the data the weights were trained on"
        )
    listed = ", ".join(
        f"{name}: {list(state[name].shape)} in the file, {list(expected[name].shape)} in the model"
        for name in wrong[:MAX_LISTED]
    )
    return UsageError(
        f"{path} has {len(wrong)} tensors of other shapes ({listed}); {_suggestion(state)}choose the model and the "
        "data it was trained on"
    )


def _suggestion(state: State) -> str:
    """Name the built-in model whose weights these could be, if there is one."""
    found = find_model([tuple(tensor.shape) for key, tensor in state.items() if not _is_counter(key)])
    return f"'model: {found}' has tensors of these shapes; " if found else ""


def _listed(keys: Collection[str]) -> str:
    shown = list(keys)[:MAX_LISTED]
    return ", ".join(shown) + (", ..." if len(keys) > len(shown) else "")
