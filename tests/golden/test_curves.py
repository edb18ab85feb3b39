import copy
from pathlib import Path

import pytest

from raykd.cli.names import packaged_recipes
from tests.golden.curves import COMMAND, FOLDER, LARGER, STEPS, differences, measure, path_of, read_golden


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where teachers and banks are trained, once for all the recipes that build on them."""
    return tmp_path_factory.mktemp("sources")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.endurance] * (name in LARGER)) for name in packaged_recipes()]
)
def test_the_first_steps_are_what_they_were(name: str, sources: Path) -> None:
    assert path_of(name).is_file(), f"no golden curve yet; run `{COMMAND} {name}`"
    ours, golden = measure(name, sources), read_golden(name)
    again = f"if the change is meant, run `{COMMAND} {name}`"
    assert ours["overrides"] == golden["overrides"], again
    assert differences(ours, golden) == [], again


def test_every_curve_is_of_a_recipe_and_whole() -> None:
    names = {path.stem for path in FOLDER.glob("*.json")}
    assert names <= set(packaged_recipes()), f"run `{COMMAND}`"
    # A term that is not there yet, as a ramp's before it begins, has a shorter curve; some term is always there.
    assert {max(map(len, read_golden(name)["losses"].values())) for name in names} == {STEPS}


def test_a_difference_is_noticed() -> None:
    golden = read_golden("supervised_digits_lenet5")
    other = copy.deepcopy(golden)
    other["losses"]["loss/cross_entropy"][2] *= 1.0001
    assert differences(other, golden) == ["loss/cross_entropy from step 2"]
    del other["losses"]["loss/cross_entropy"]
    assert differences(other, golden) == ["loss/cross_entropy is only in one of both"]


@pytest.mark.parametrize(
    ("name", "rounding", "change"), [("fast_digits", 2e-3, 1e-1), ("deepinversion_cifar10_resnet20", 4e-5, 1e-3)]
)
def test_late_steps_may_be_rounded_otherwise(name: str, rounding: float, change: float) -> None:
    golden = read_golden(name)
    other = copy.deepcopy(golden)
    other["losses"]["loss/kd"][-1] *= 1 + rounding
    assert differences(other, golden) == []
    other["losses"]["loss/kd"][-1] *= 1 + change
    last = len(golden["losses"]["loss/kd"]) - 1
    assert differences(other, golden) == [f"loss/kd from step {last}"]
