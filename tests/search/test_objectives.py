"""By what a search may choose: never by the test split."""

import pytest

from raykd.errors import UsageError
from raykd.recipe.recipe import load_recipe
from raykd.results import COVERAGE
from raykd.search.objectives import default_objective, metric_name, read_metric


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


def test_a_trial_that_is_not_to_be_judged_is_the_worst() -> None:
    row = {"blind/agreement": 20.0, "referee/agreement": 30.0, COVERAGE: 20.0}
    assert [read_metric(name, row) for name in ("blind/agreement", "referee/agreement")] == [0.0, 30.0]
    assert read_metric("blind/agreement", {**row, COVERAGE: 99.0}) == 20.0
