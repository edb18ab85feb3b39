"""Names are told, and completed, without loading what they name."""

import click

from raykd.cli.app import app
from raykd.cli.names import complete_recipe, packaged_recipes
from raykd.recipe.recipe import recipe_names


def test_names_are_told_without_loading_recipes() -> None:
    assert list(packaged_recipes()) == recipe_names()
    assert all(packaged_recipes().values()), "a recipe's first line is a comment on it"


def test_the_shell_completes_recipes() -> None:
    command = app.commands["train"]
    context = click.Context(command)
    items = complete_recipe(context, command.params[0], "dafl_dig")
    assert [item.value for item in items] == ["dafl_digits"]
    assert [item.type for item in complete_recipe(context, command.params[0], "./my")] == ["file"]
