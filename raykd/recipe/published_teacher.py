"""What a recipe says of a published classifier, and what its publishers say: what the recipe leaves open is theirs."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError

from raykd.config.base import Config
from raykd.config.yaml_file import explain
from raykd.data.datasets import DATASETS
from raykd.errors import CorruptError, MissingPackage, UsageError
from raykd.models.published import find_facts, pin
from raykd.models.published_facts import PublishedFacts
from raykd.recipe.sections import DataConfig, NetworkConfig, TeacherConfig
from raykd.spec import DataSpec

Section = TypeVar("Section", bound=Config)

_TOLERANCE = 2e-3  # of constants, which people round to three digits


def pin_network(section: NetworkConfig | TeacherConfig) -> NetworkConfig | TeacherConfig:
    """Return a section whose names mean the same later and elsewhere, see ``raykd.models.published.pin``.

    Raises:
        MissingPackage, UsageError, CorruptError: as ``pin``.
    """
    if section.model is None:
        return section
    architecture = section.architecture if isinstance(section, TeacherConfig) else {}
    found = pin(section.model, section.weights, architecture)
    update: dict[str, Any] = {"model": found.model, "weights": found.weights}
    if isinstance(section, TeacherConfig):
        update["architecture"] = found.config
    return _with_fields(section, {key: value for key, value in update.items() if getattr(section, key) != value})


def complete(data: DataConfig, teacher: TeacherConfig) -> tuple[DataConfig, TeacherConfig]:
    """Pin a teacher, and fill in what the data leave open and its publishers say: size, mean, std and class names.

    Raises:
        MissingPackage, UsageError, CorruptError: as ``pin``.
    """
    pinned = pin_network(teacher)
    assert isinstance(pinned, TeacherConfig), "it was one"
    if teacher.architecture:  # completed before; its folder may be gone since
        return data, pinned
    facts = find_facts(pinned.model, pinned.weights)
    return (data if facts is None else _informed(data, facts)), pinned


def find_contradictions(spec: DataSpec, teacher: TeacherConfig | NetworkConfig) -> list[str]:
    """Return where data and a teacher's publishers say different things; nothing where these are out of reach."""
    with suppress(UsageError, MissingPackage, CorruptError):
        facts = find_facts(teacher.model, teacher.weights)
        return [] if facts is None else _contradictions(spec, facts)
    return []


def _informed(data: DataConfig, facts: PublishedFacts) -> DataConfig:
    known = DATASETS.get(data.name)
    channels = known.channels if known is not None else data.channels
    if known is not None and facts.num_classes is None:  # own weights for a set that has a size and constants itself
        return data
    said: dict[str, Any] = {"size": facts.size}
    if channels in (None, facts.channels):  # else it was trained on other images
        said |= {"mean": facts.mean, "std": facts.std}
    update = {key: value for key, value in said.items() if getattr(data, key) is None}
    classes = known.num_classes if known is not None else data.num_classes
    has_names = data.class_names or (known is not None and known.class_names)
    if facts.class_names and not has_names and classes in (None, facts.num_classes):
        update["class_names"] = facts.class_names
    return _with_fields(data, update)


def _with_fields(section: Section, update: dict[str, Any]) -> Section:
    """Return a section with some fields replaced, which come from others and are checked like the user's own."""
    if not update:
        return section
    content = {**section.model_dump(mode="json", exclude_unset=True), **update}
    try:
        return type(section).model_validate(content)
    except ValidationError as error:
        raise explain(error, "what the teacher's publishers say", type(section), content) from None


def _contradictions(spec: DataSpec, facts: PublishedFacts) -> list[str]:
    found = []
    for name in ("mean", "std"):
        ours, theirs = getattr(spec, name), getattr(facts, name)
        if len(ours) == len(theirs) and not _are_close(ours, theirs):
            found.append(f"data.{name} is {list(ours)}, and {facts.source} says {list(theirs)}: the data's is taken")
    if spec.size != facts.size:
        found.append(f"data.size is {spec.size}, and {facts.source} says {facts.size}: the data's is taken")
    ours, theirs = ([name.lower() for name in names] for names in (spec.class_names, facts.class_names))
    if ours != theirs and sorted(ours) == sorted(theirs):
        found.append(
            f"the data have the classes in another order than {facts.source}: the teacher's answers are others'"
        )
    return found


def _are_close(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return all(abs(a - b) <= _TOLERANCE for a, b in zip(ours, theirs, strict=True))
