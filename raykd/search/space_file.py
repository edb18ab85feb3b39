"""Loading search spaces: by name or path, with fields of the recipe fixed on the command line."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raykd.config.catalog import SPACES
from raykd.config.yaml_file import explain, load_yaml, parse_value
from raykd.errors import UsageError
from raykd.search.dimension import Dimension, as_list
from raykd.search.space import SearchSpace, Values


def load_space(source: str, overrides: Iterable[str] = (), trials: int | None = None) -> SearchSpace:
    """Load a space by name or path, and check it.

    Args:
        source: a name, or the path of a file.
        overrides: ``KEY=VALUE`` pairs: fields of the recipe that are the same in all trials, so searched no more.
        trials: number of trials, instead of the file's.

    Raises:
        UsageError: for an unknown name, key or value, naming the nearest match.
    """
    path = SPACES.find(source)
    raw = load_yaml(path)
    if "name" in raw:
        raise UsageError(f"{path}: 'name' is not a field here; a space is called like its file")
    if raw.get("images") is not None:
        raise UsageError(f"{path}: 'images' is how many a second stage learns from: it stands in 'then'")
    if raw.get("overrides", {}) is None:  # the key stands there, and all below it is commented out
        del raw["overrides"]
    raw["name"] = path.stem
    if isinstance(raw.get("then"), dict):
        raw["then"] = {**raw["then"], "name": f"{path.stem}-then"}
    space = _validate(raw, path)
    changes = _fix(space, dict(map(_parse_pair, overrides)), path)
    if trials is not None:
        changes["trials"] = trials
    if changes:  # validated again, as a file with these fields would be
        space = _validate({**{name: getattr(space, name) for name in space.model_fields_set}, **changes}, path)
    space.check()
    return space


def space_files() -> dict[str, Path]:
    """Return the files of the spaces that have names: packaged ones, and the user's own in ./search_spaces."""
    return SPACES.files()


def _validate(raw: dict[str, Any], path: Path) -> SearchSpace:
    try:
        return SearchSpace.model_validate(raw)
    except ValidationError as error:
        raise explain(error, str(path), SearchSpace, raw) from None


def _parse_pair(pair: str) -> tuple[str, Any]:
    key, equals, text = pair.partition("=")
    if not equals or not key:
        raise UsageError(f"expected KEY=VALUE, as in schedule.steps=100; got {pair!r}")
    return key, parse_value(text, key)


def _fix(space: SearchSpace, fixed: Values, path: Path) -> dict[str, Any]:
    """Return the fields of a space that change where fields of the recipe are fixed.

    The fixed fields are searched no more, nor are those whose condition the fixed values do not meet.
    """
    if not fixed:
        return {}
    searched: dict[str, Dimension] = {}
    for key, dimension in space.space.items():
        open_conditions = {other: allowed for other, allowed in dimension.when.items() if other not in fixed}
        met = all(fixed[other] in as_list(allowed) for other, allowed in dimension.when.items() if other in fixed)
        if key not in fixed and met and open_conditions.keys() <= searched.keys():
            searched[key] = dimension.model_copy(update={"when": open_conditions})
    if not searched:
        raise UsageError(
            f"{path}: nothing is left to search with {', '.join(fixed)} fixed: use `raykd train {space.recipe}`"
        )
    points = [{key: value for key, value in point.items() if key in searched} for point in space.points]
    return {
        "overrides": {**space.overrides, **fixed},
        "space": searched,
        "points": [point for point in points if point],
    }
