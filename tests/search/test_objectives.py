"""By what a search may choose: never by the test split."""

import pytest

from raykd.errors import UsageError
from raykd.recipe.recipe import load_recipe
from raykd.search.objectives import default_objective, metric_name


@pytest.mark.parametrize(
    ("recipe", "default", "agreement", "accuracy"),
    [
        ("dafl_digits", "agreement", "blind/agreement", "opens none: take agreement"),
        ("mosaickd_mnist", "agreement", "blind/agreement", "opens none: take agreement"),
        ("blind_kd_mnist", "agreement", "holdout/agreement", "opens none: take agreement"),
        ("kd_digits", "accuracy", "holdout/agreement", "holdout/accuracy/top1"),
        ("supervised_digits_lenet5", "accuracy", "has none: take accuracy", "holdout/accuracy/top1"),
        ("lsgdfd_digits_bank", "agreement", "trains no student", "opens none: take agreement"),
    ],
)
def test_no_objective_is_measured_on_the_test_split(recipe: str, default: str, agreement: str, accuracy: str) -> None:
    loaded = load_recipe(recipe)
    assert default_objective(loaded) == default
    for objective, expected in (("agreement", agreement), ("accuracy", accuracy)):
        if "/" in expected:
            assert metric_name(objective, loaded) == expected
            continue
        with pytest.raises(UsageError, match=expected):
            metric_name(objective, loaded)
