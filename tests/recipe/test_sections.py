"""What a section of a recipe may say, and what it refuses by itself."""

import pytest

from raykd.errors import UsageError
from raykd.recipe.recipe import load_recipe


@pytest.mark.parametrize(
    ("recipe", "pairs", "says"),
    [
        ("blind_kd_mnist", ["data.ood=null"], "'blind_kd' needs other images: give 'data.ood'"),
        ("kd_digits", ["data.ood=usps"], "'kd' takes no other images: leave out 'data.ood'"),
        ("noise_digits", ["data.ood=usps"], "'noise' takes no other images"),
        ("kd_digits", ["data.ood_images=3"], "'ood_images' chooses of the set that 'ood' names"),
        ("blind_kd_mnist", ["data.ood_images=0"], "ood_images"),
    ],
)
def test_a_recipe_names_other_images_where_they_are_wanted(recipe: str, pairs: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe(recipe, pairs)


@pytest.mark.parametrize(
    "data",
    [
        "{name: mine, num_classes: 10, channels: 1, test: false}",
        "{name: mine, num_classes: 10, channels: 1, size: 32}",
        "{name: mine, num_classes: 10, size: 32, test: false}",
    ],
)
def test_half_a_description_is_refused(data: str) -> None:
    with pytest.raises(UsageError, match="described"):
        load_recipe("dafl_digits", [f"data={data}"])
