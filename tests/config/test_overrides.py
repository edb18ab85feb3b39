"""Fields set by their dotted names: each takes the type of its field, and none is made up."""

import pytest

from raykd.config.optim import Adam, Sgd
from raykd.errors import UsageError
from raykd.methods.dafl import DaflConfig
from raykd.recipe.recipe import load_recipe


def test_overrides_take_the_type_of_their_field() -> None:
    pairs = ["method.entropy_weight=3", "schedule.steps=7", "data.augment=[crop, flip]", "seed=2"]
    recipe = load_recipe("dafl_digits", [*pairs, "student_optim={name: sgd, lr: 0.1}"])
    assert isinstance(recipe.method, DaflConfig)
    assert recipe.method.entropy_weight == 3.0
    assert isinstance(recipe.method.entropy_weight, float)
    assert (recipe.schedule.steps, recipe.seed) == (7, 2)
    assert recipe.data.augment == ("crop", "flip")
    assert recipe.student_optim == Sgd(name="sgd", lr=0.1)
    plain = load_recipe("dafl_digits")
    assert recipe.method.generator_optim == plain.method.generator_optim  # type: ignore[union-attr]


@pytest.mark.parametrize("pairs", [["data=mnist", "data.size=64"], ["data.size=64", "data.name=mnist"]])
def test_the_short_form_of_data_can_be_overridden_in_parts(pairs: list[str]) -> None:
    data = load_recipe("dafl_digits", pairs).data
    assert (data.name, data.size) == ("mnist", 64)


def test_overrides_can_reach_inside_a_default() -> None:
    pairs = ["student_optim.schedule={name: cosine}", "student_optim.warmup_steps=3"]
    optimizer = load_recipe("dafl_digits", pairs).student_optim
    assert isinstance(optimizer, Adam)
    assert (optimizer.schedule.name, optimizer.warmup_steps) == ("cosine", 3)


def test_an_unknown_override_gets_the_nearest_match() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("dafl_digits", ["method.one_hot_weight=3"])
    assert str(caught.value) == (
        "'method.one_hot_weight' is not a field of the 'dafl_digits' recipe; did you mean 'method.onehot_weight'?"
    )


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("method.name=kd", "method.name cannot be overridden"),
        ("method={name: kd}", "method.name cannot be overridden"),
        ("name=x", "name cannot be overridden"),
        ("extends=x", "'extends' is not a field"),
        ("student_optim.lr", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("student_optim.lr=fast", "student_optim.lr: got 'fast'; .*valid number"),
        ("student_optim.lr=-1", "student_optim.lr: got -1; .*greater than 0"),
        ("schedule.steps=1.5", "schedule.steps: got 1.5; .*valid integer"),
        ("schedule.global_batch=1", "schedule.global_batch: got 1; .*greater than 1"),
        ("student_optim.schedule={name: cosin}", "'constant', 'multistep', 'cosine'"),
        ("student.factory=a:b", "give either 'model' or 'factory'"),
        ("teacher.weights=x", "'weights' .* goes with 'model' or 'factory'"),
        ("schedule=[", "cannot read the value"),
    ],
)
def test_overrides_that_make_no_sense_are_refused(pair: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe("dafl_digits", [pair])
