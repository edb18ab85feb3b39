"""Search spaces from their files: by name or path, with fields of the recipe fixed on the command line."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raykd.config.catalog import Catalog
from raykd.config.yaml_file import explain, load_yaml, parse_value
from raykd.errors import UsageError
from raykd.search.dimension import Dimension, listed
from raykd.search.space import SearchSpace, Values

_SPACES = Catalog("search space", folder="search_spaces", listing="spaces", extensible=True)


def load_space(source: str, overrides: Iterable[str] = (), trials: int | None = None) -> SearchSpace:
    """Load a space by name or path; ``KEY=VALUE`` pairs fix fields of the recipe, and so are searched no more.

    Args:
        source: a name, or a path of a file.
        overrides: the pairs.
        trials: how many, instead of what the file says.

    Raises:
        UsageError: for an unknown name, key or value, naming the nearest match.
    """
    path = _SPACES.find(source)
    raw = load_yaml(path)
    if "name" in raw:
        raise UsageError(f"{path}: 'name' is not a field here; a space is called like its file")
    if "images" in raw:
        raise UsageError(f"{path}: 'images' is how many a second stage learns from: it stands in 'then'")
    if raw.get("overrides", {}) is None:  # the key stands there, and all below it is commented out
        del raw["overrides"]
    raw["name"] = path.stem
    if isinstance(raw.get("then"), dict):
        raw["then"] = {**raw["then"], "name": f"{path.stem}-then"}
    space = _valid(raw, path)
    changed = _with_fixed(space, dict(map(_pair, overrides)), path)
    if trials is not None:
        changed["trials"] = trials
    if changed:
        space = _valid({**{name: getattr(space, name) for name in space.model_fields_set}, **changed}, path)
    space.check()
    return space


def space_files() -> dict[str, Path]:
    """Return the files of the spaces that have names: packaged ones, and the user's own in ./search_spaces."""
    return _SPACES.files()


def _valid(raw: dict[str, Any], path: Path) -> SearchSpace:
    try:
        return SearchSpace.model_validate(raw)
    except ValidationError as error:
        raise explain(error, str(path), SearchSpace, raw) from None


def _pair(pair: str) -> tuple[str, Any]:
    key, equals, text = pair.partition("=")
    if not equals or not key:
        raise UsageError(f"expected KEY=VALUE, as in schedule.steps=100; got {pair!r}")
    return key, parse_value(text)


def _with_fixed(space: SearchSpace, fixed: Values, path: Path) -> dict[str, Any]:
    """Return what of a space becomes other where fields are fixed: they, and what waits for other values, are gone."""
    if not fixed:
        return {}
    left: dict[str, Dimension] = {}
    for key, dimension in space.space.items():
        waits = {other: wanted for other, wanted in dimension.when.items() if other not in fixed}
        met = all(fixed[other] in listed(wanted) for other, wanted in dimension.when.items() if other in fixed)
        if key not in fixed and met and waits.keys() <= left.keys():
            left[key] = dimension.model_copy(update={"when": waits})
    if not left:
        raise UsageError(
            f"{path}: nothing is left to search with {', '.join(fixed)} fixed: use `raykd train {space.recipe}`"
        )
    points = [{key: value for key, value in point.items() if key in left} for point in space.points]
    return {"overrides": {**space.overrides, **fixed}, "space": left, "points": [point for point in points if point]}
