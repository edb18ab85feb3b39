"""Packaged recipes that a recipe for another teacher begins as: `starters.yaml`, in the order of preference."""

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from raykd.config.base import Config
from raykd.config.overrides import override_pairs
from raykd.config.yaml_file import load_yaml
from raykd.recipe.recipe import Recipe, load_recipe


class Starter(Config):
    """A recipe to take settings, rates and schedule from, and the teachers that it is for."""

    recipe: str
    channels: int | None = Field(default=None, description="of the teacher's images; default: any")
    from_size: int = Field(default=0, description="pixels of the teacher's images, at least")
    batch_norm: bool | None = Field(default=None, description="whether the teacher has such layers; default: either")
    overrides: dict[str, Any] = {}
    took: str | None = Field(default=None, description="how long it was measured to take, on what, from what teacher")

    def fits(self, channels: int, size: int, batch_norm: bool) -> bool:
        """Tell whether it is for a teacher of such images."""
        return self.channels in (None, channels) and size >= self.from_size and self.batch_norm in (None, batch_norm)

    def load(self) -> Recipe:
        """Return the recipe with its overrides."""
        return load_recipe(self.recipe, override_pairs(self.overrides))


def starters() -> list[Starter]:
    """Return all of them, the preferred ones first."""
    with resources.as_file(resources.files("raykd.recipe") / "starters.yaml") as file:
        content = load_yaml(Path(file))
    return [Starter.model_validate(one) for one in content["starters"]]
