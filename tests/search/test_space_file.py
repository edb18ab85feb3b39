"""Spaces that are shipped, and those of which the command line fixes fields."""

from pathlib import Path
from typing import Any

import pytest

from raykd.errors import UsageError
from raykd.recipe.recipe import load_recipe
from raykd.search.objectives import default_objective, metric_name
from raykd.search.space_file import load_space, space_files
from tests.search.test_space import POPULATION, RATE, SPACE, made


@pytest.mark.parametrize("name", space_files())
def test_every_shipped_space_is_valid(name: str) -> None:
    space = load_space(name)
    for objective in space.objectives or (default_objective(space.make_recipe({})),):
        metric_name(objective, space.make_recipe({}))
    assert space_files()[name].read_text().splitlines()[1].startswith("# "), "below its schema it says what it is"


def test_the_shipped_spaces_cover_the_methods() -> None:
    methods = {load_recipe(load_space(name).recipe).method.name for name in space_files()}
    assert {"dafl", "bank_kd", "mosaickd", "tfkd_reg", "kd", "pool_inversion"} <= methods


def test_a_field_fixed_on_the_command_line_is_searched_no_more(tmp_path: Path) -> None:
    space = made(tmp_path, "student.model=hinton800")
    assert list(space.space) == [key for key in SPACE if key != "student.model"]
    assert space.space["method.temperature"].when == {}, "its condition is met"
    assert space.make_recipe({}).student == load_recipe("dafl_digits", ["student.model=hinton800"]).student
    assert "method.temperature" not in made(tmp_path, "student.model=lenet5").space


def test_what_is_fixed_is_gone_from_points_and_from_what_waits_for_it(tmp_path: Path) -> None:
    waiting = {"student_optim.lr": {**RATE, "when": {"method.latent_dim": [10, 11]}}}
    point = {"student.model": "hinton800", "method.latent_dim": 10, "student_optim.lr": 0.01, "method.temperature": 4.0}
    changes: dict[str, Any] = {"space": {**SPACE, **waiting}, "points": [point, {"method.latent_dim": 12}]}
    space = made(tmp_path, "method.latent_dim=12", **changes)
    assert list(space.space) == ["student.model", "method.entropy_weight", "method.temperature"]
    assert space.points == ({"student.model": "hinton800", "method.temperature": 4.0},)
    nested = {
        "student.model": SPACE["student.model"],
        "method.latent_dim": {"int": [10, 20], "when": {"student.model": "hinton800"}},
        **waiting,
        "method.entropy_weight": RATE,
    }
    assert list(made(tmp_path, "student.model=lenet5", space=nested).space) == ["method.entropy_weight"]
    assert "method.temperature" not in load_space("dafl_digits", ["method.temperature=4"]).points[0]


def test_with_all_fixed_nothing_is_left_to_search(tmp_path: Path) -> None:
    pairs = ["student.model=lenet5", "method.entropy_weight=1", "method.latent_dim=10"]
    with pytest.raises(UsageError, match="nothing is left to search with student.model, .* `raykd train dafl_digits`"):
        made(tmp_path, *pairs)


def test_trials_of_the_command_line_are_held_to_the_same_rules(tmp_path: Path) -> None:
    made(tmp_path, **POPULATION)
    path = str(tmp_path / "made.yaml")
    assert load_space(path, trials=3).trials == 3
    with pytest.raises(UsageError, match="made.yaml: .*trials is 1"):
        load_space(path, trials=1)


def test_unknown_spaces_and_pairs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown search space 'dafl_digit'; did you mean 'dafl_digits'"):
        load_space("dafl_digit")
    with pytest.raises(UsageError, match="no search space file"):
        load_space(str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="expected KEY=VALUE"):
        made(tmp_path, "schedule.steps")
    with pytest.raises(UsageError, match="did you mean 'schedule.steps'"):
        made(tmp_path, "schedule.step=3")
