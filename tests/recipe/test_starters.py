"""What new recipes begin as is packaged, and there is something for every kind of teacher."""

import pytest

from raykd.methods import METHODS
from raykd.recipe.starters import starters


def test_every_starter_loads_and_every_method_with_a_teacher_has_one() -> None:
    named = {one.load().method.name for one in starters()}
    wanted = {name for name, method in METHODS.items() if "teacher" in method.roles and not name.startswith("tfkd")}
    assert named == wanted


@pytest.mark.parametrize(
    ("channels", "size", "batch_norm", "first"),
    [
        (3, 32, True, "fast_cifar10_resnet20"),
        (3, 64, True, "fast_tiny50"),
        (1, 32, True, "fast_mnist_quick"),
        (1, 32, False, "fast_mnist_quick"),
    ],
)
def test_the_first_that_fits_is_preferred(channels: int, size: int, batch_norm: bool, first: str) -> None:
    assert next(one.recipe for one in starters() if one.fits(channels, size, batch_norm)) == first
