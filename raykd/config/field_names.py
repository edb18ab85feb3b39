"""What to say of a key that is no field here: the dotted field that is meant, or that another file has it."""

from collections.abc import Iterable
from difflib import SequenceMatcher

from raykd.config.runtime import Runtime
from raykd.errors import MAX_SHOWN

CLUSTER_FIELDS = frozenset(Runtime.model_fields) | {
    "address", "workers", "grows_to", "cpus_per_worker", "gpus_per_worker", "storage", "data_root", "max_failures",
    "hang_seconds", "on_hang", "memory_per_worker_gib", "study", "dashboard", "launcher", "dependencies",
    "network_gbit_per_s", "network_latency_us", "price_per_hour", "trackers",
}  # fmt: skip
"""Fields of a cluster file, which stands above this room and imports it."""
_OF_MACHINES = ("runtime", "cluster")
"""Sections that no recipe has, by which users name what belongs to machines."""
_WORDS = {
    "learning_rate": "lr", "epochs": "steps", "iterations": "steps", "max_steps": "steps", "batch_size": "global_batch",
    "batch": "global_batch",
}  # fmt: skip
"""What others call a field of ours."""
_NEAR = 0.65
_MOST_NAMED = 3


def field_hint(key: str, allowed: Iterable[str], inside: str = "") -> str:
    """Return ``"; did you mean 'x'?"`` for a key that is no field, or where it belongs; or an empty string.

    Args:
        key: what was written, perhaps dotted.
        allowed: the fields that there are, dotted where they lie in sections.
        inside: how the names that are told begin, as in ``method.``.
    """
    bare, fields = key.lstrip("-"), list(allowed)
    if bare != key and bare in fields:
        return f"; write {inside + bare!r}, without dashes"
    if len(bare) > MAX_SHOWN:  # comparing takes as long as both are, squared
        return ""
    section, _, leaf = bare.rpartition(".")
    written, leaf = leaf, _WORDS.get(leaf, leaf)
    bare = f"{section}.{leaf}" if section else leaf
    named = [field for field in fields if _leaf(field) == leaf]
    if leaf in CLUSTER_FIELDS and (section in _OF_MACHINES or not named):
        option = {"precision": ", or --precision here", "trackers": ", or --tracker here"}.get(leaf, "")
        return f"; {leaf!r} belongs to the machines: put `{leaf}: ...` into a cluster file (--cluster FILE){option}"
    if bare in _OF_MACHINES and bare not in fields:
        return "; machines are described by a cluster file (--cluster FILE; `raykd show cluster NAME` prints one)"
    near = sorted(named, key=lambda field: -_likeness(bare, field))[:_MOST_NAMED]
    if not near:
        scores = {field: max(_likeness(bare, field), _likeness(leaf, _leaf(field))) for field in fields}
        likely = [field for field in fields if scores[field] >= _NEAR]
        near = sorted(likely, key=lambda field: (-scores[field], -_likeness(bare, field)))[:1]
    steps = " A step is a batch, not an epoch." if written == "epochs" else ""
    return f"; did you mean {' or '.join(repr(inside + field) for field in near)}?{steps}" if near else ""


def _leaf(field: str) -> str:
    return field.rpartition(".")[2]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
