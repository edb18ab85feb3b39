"""Classifiers that others publish: torchvision's, timm's and folders of transformers, with what is known of them.

A recipe names them by ``model`` and ``weights``. What such names mean may change with a package or a folder, so they
are made to mean one thing where an experiment is resolved (``pinned``).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from raykd.models.published_facts import PublishedFacts

TORCHVISION, TIMM, TRANSFORMERS = "torchvision/", "timm/", "hf/"
"""How the names of such models begin."""
_ENTRY = re.compile(r"[A-Z][A-Z0-9_]*")
"""How torchvision calls published weights; no file of weights has a name without a suffix."""


class Pinned(NamedTuple):
    """The fields of a section that name a network, so that they mean the same everywhere and later."""

    model: str
    weights: str | None
    config: Mapping[str, Any]


def is_published(model: str | None, weights: str | None) -> bool:
    """Tell whether weights are those that a model's publishers name, not a file of the user's."""
    named = model is not None and model.startswith((TORCHVISION, TIMM))
    return named and weights is not None and _ENTRY.fullmatch(weights) is not None


def pin(model: str, weights: str | None, config: Mapping[str, Any]) -> Pinned:
    """Return names that mean one thing: no ``DEFAULT`` of torchvision's or timm's, and no folder for an architecture.

    Raises:
        MissingPackage: the package that knows is not installed.
        UsageError: no such model, weights or folder.
        CorruptError: a file of the folder is damaged.
    """
    if model.startswith(TRANSFORMERS):
        if config and weights is not None:
            return Pinned(model, weights, config)
        from raykd.models.transformers_folder import read_folder

        found = read_folder(model.removeprefix(TRANSFORMERS))
        return Pinned(model, found.weights if weights is None else weights, found.config)
    if not is_published(model, weights):
        return Pinned(model, weights, config)
    if model.startswith(TORCHVISION):
        from raykd.models.torchvision_zoo import find_entry

        return Pinned(model, find_entry(model.removeprefix(TORCHVISION), str(weights)).name, config)
    from raykd.models.timm_zoo import full_timm_name

    _check_timm(model, weights)
    return Pinned(TIMM + full_timm_name(model.removeprefix(TIMM)), weights, config)


def find_facts(model: str | None, weights: str | None) -> PublishedFacts | None:
    """Return what the publishers of a classifier say of it; None of any other.

    Of weights of the user's own, timm says what the network usually expects.

    Raises:
        MissingPackage, UsageError, CorruptError: as ``pin``.
    """
    if model is None:
        return None
    if model.startswith(TRANSFORMERS):
        from raykd.models.transformers_folder import read_folder

        return read_folder(model.removeprefix(TRANSFORMERS)).facts
    if model.startswith(TORCHVISION) and is_published(model, weights):
        from raykd.models.torchvision_zoo import torchvision_facts

        return torchvision_facts(model.removeprefix(TORCHVISION), str(weights))
    if model.startswith(TIMM) and weights is not None:
        from raykd.models.timm_zoo import timm_facts

        return timm_facts(model.removeprefix(TIMM), own_weights=not is_published(model, weights))
    return None


def published_file(model: str, weights: str) -> Path:
    """Return the file of published weights in the cache of their package; nothing is fetched.

    Raises:
        MissingPackage: the package that knows is not installed.
        UsageError: no such weights, or they are not here, saying how to bring them.
        CorruptError: its sum is another than that in its name.
    """
    if model.startswith(TORCHVISION):
        from raykd.models.torchvision_zoo import torchvision_file

        return torchvision_file(model.removeprefix(TORCHVISION), weights)
    from raykd.models.timm_zoo import timm_file

    _check_timm(model, weights)
    return timm_file(model.removeprefix(TIMM))


def _check_timm(model: str, weights: str | None) -> None:
    from raykd.errors import unknown

    if weights != "DEFAULT":
        raise unknown(f"weights of {model}", str(weights), ["DEFAULT", "a file"])
