"""Packaged recipes that are tried side by side for a teacher of the user's: `candidates.yaml`."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from raykd.config.yaml_file import load_yaml
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.recipe.starters import Starter


class Candidate(Starter):
    """A recipe to begin as, by the name that a search has for it."""

    name: str
    why: str = Field(description="what the student learns from")
    control: bool = Field(default=False, description="whether it is what the others must beat")
    scaled: Mapping[str, float] = Field(default={}, description="whole numbers that are shares of the steps, by field")
    vary: Mapping[str, tuple[float, ...]] = Field(default={}, description="factors to be tried, by dotted number")

    def leaving(self, keys: Iterable[str]) -> Self:
        """Return the candidate that neither scales nor varies what somebody has set: fields, or whole sections."""
        taken = tuple(keys)

        def is_free(name: str) -> bool:
            return not any(name == key or name.startswith(f"{key}.") for key in taken)

        scaled = {name: share for name, share in self.scaled.items() if is_free(name)}
        vary = {name: factors for name, factors in self.vary.items() if is_free(name)}
        return self.model_copy(update={"scaled": scaled, "vary": vary})

    def with_schedule(self, recipe: Recipe, steps: int, report_every: int) -> Recipe:
        """Return a recipe of this candidate with another budget, and what is scaled with it; at least 1 of that."""
        schedule = {"steps": steps, "report_every": report_every}
        content = recipe.model_dump(mode="json")
        content["schedule"] |= schedule
        for key, share in self.scaled.items():
            _set(content, key, max(1, round(share * steps)))
        return recipe_from_dict(content)

    def variants(self, recipe: Recipe) -> dict[str, Recipe]:
        """Return recipes of which one number is another each, by what that is; those that make no recipe are left out.

        They are named after ``recipe``: ``NAME_1`` and so on.
        """
        found: dict[str, Recipe] = {}
        for key, factors in self.vary.items():
            for factor in factors:
                content = recipe.model_dump(mode="json")
                number = _get(content, key)
                if not isinstance(number, int | float) or not number:
                    continue
                value = float(f"{number * factor:.3g}")
                _set(content, key, value)
                content["name"] = f"{recipe.name}_{len(found) + 1}"
                found[f"{key}={value:g}"] = recipe_from_dict(content)
        return found


def candidates() -> list[Candidate]:
    """Return all of them, in their order."""
    with resources.as_file(resources.files("raykd.recipe") / "candidates.yaml") as file:
        content = load_yaml(Path(file))
    return [Candidate.model_validate(one) for one in content["candidates"]]


def _get(content: Mapping[str, Any], key: str) -> Any:
    value: Any = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *path, leaf = key.split(".")
    for part in path:
        content = content[part]
    content[leaf] = value
