"""Search spaces are data: what a trial's recipe is, and every slip named before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.search.dimension import from_parameter, to_parameter
from raykd.search.grid import list_given
from raykd.search.objectives import default_objective, metric_name
from raykd.search.space import SearchSpace
from raykd.search.space_file import load_space, space_files

RATE = {"loguniform": [0.001, 0.1]}
SPACE = {
    "student.model": {"choice": ["lenet5_half", "hinton800"]},
    "method.entropy_weight": {"loguniform": [0.1, 10]},
    "method.latent_dim": {"int": [10, 20]},
    "method.temperature": {"uniform": [1, 10], "when": {"student.model": "hinton800"}},
}
POPULATION = {
    "scheduler": {"name": "pbt"},
    "trials": 4,
    "space": {"method.entropy_weight": SPACE["method.entropy_weight"]},
}
THEN = {"recipe": "kd_digits", "images": 100, "space": {"student_optim.lr": RATE}}


def made(folder: Path, *pairs: str, **changes: Any) -> SearchSpace:
    raw = {"recipe": "dafl_digits", "space": SPACE, **changes}
    path = folder / "made.yaml"
    plain = json.loads(json.dumps({key: value for key, value in raw.items() if value is not None}))
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    return load_space(str(path), pairs)


@pytest.mark.parametrize("name", space_files())
def test_every_shipped_space_is_valid(name: str) -> None:
    space = load_space(name)
    for objective in space.objectives or (default_objective(space.make_recipe({})),):
        metric_name(objective, space.make_recipe({}))
    assert space_files()[name].read_text().startswith("# "), "its first line says what it is"


def test_the_shipped_spaces_cover_the_methods() -> None:
    methods = {load_recipe(load_space(name).recipe).method.name for name in space_files()}
    assert {"dafl", "bank_kd", "mosaickd", "tfkd_reg", "kd"} <= methods


def test_a_trials_recipe_is_what_train_would_make(tmp_path: Path) -> None:
    space = made(tmp_path, "schedule.steps=7", overrides={"schedule.report_every": 7})
    recipe = space.make_recipe({"student.model": "hinton800", "method.entropy_weight": 2.0})
    pairs = ["student.model=hinton800", "method.entropy_weight=2.0", "schedule.steps=7", "schedule.report_every=7"]
    assert resolve(recipe).run_id == resolve(load_recipe("dafl_digits", pairs)).run_id
    assert not recipe.controls


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


@pytest.mark.parametrize("slip", [["a"], "foo", 5])
def test_overrides_are_a_mapping(tmp_path: Path, slip: Any) -> None:
    with pytest.raises(UsageError, match="made.yaml: overrides: got .* valid dictionary"):
        made(tmp_path, overrides=slip)
    (tmp_path / "made.yaml").write_text("recipe: kd_digits\noverrides:\nspace: {method.alpha: {uniform: [0, 1]}}\n")
    assert load_space(str(tmp_path / "made.yaml")).overrides == {}


def test_conditions_are_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"space.method.temperature.when: got \['student.model'\]"):
        made(tmp_path, "student.model=lenet5",
             space={**SPACE, "method.temperature": {"uniform": [1, 9], "when": ["student.model"]}})  # fmt: skip


def test_a_condition_decides_what_is_drawn(tmp_path: Path) -> None:
    space = made(tmp_path)
    for model, drawn in (("lenet5_half", False), ("hinton800", True)):
        values = space.draw(lambda key, one, model=model: model if key == "student.model" else one.samples[0])  # type: ignore[misc]
        assert ("method.temperature" in values) == drawn
        assert list(values)[:3] == list(SPACE)[:3]


def test_a_choice_may_be_anything_that_a_recipe_takes(tmp_path: Path) -> None:
    space = made(tmp_path, recipe="kd_digits", space={"data.augment": {"choice": [[], ["crop"]]}})
    dimension = space.space["data.augment"]
    kept = [to_parameter(value) for value in dimension.samples]
    assert kept == ["[]", '["crop"]']
    assert [from_parameter(dimension, one) for one in kept] == [[], ["crop"]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": {}}, "space.*at least 1"),
        ({"space": None}, "'space' is required"),
        ({"space": {"method.entropy_wieght": RATE}}, "did you mean 'method.entropy_weight'"),
        ({"space": {"method.entropy_weight": {"loguniform": [10, 0.1]}}}, "low < high; got \\[10.0, 0.1\\]"),
        ({"space": {"method.entropy_weight": {"loguniform": [0, 1]}}}, "starts above 0"),
        ({"space": {"method.entropy_weight": {"uniform": [-1, 1]}}}, "method.entropy_weight at -1.0: .*greater than"),
        ({"space": {"method.latent_dim": {"uniform": [1, 2.5]}}}, "method.latent_dim at 2.5: .*integer"),
        ({"space": {"schedule.steps": {"uniform": [100, 200]}}}, "schedule.steps at 161.803: .*integer"),
        ({"space": {"method.latent_dim": {"loguniform": [1, 1000]}}}, "method.latent_dim at 618.*integer"),
        ({"space": {"data.test": {"uniform": [0, 1]}}}, "data.test at 0.61803: .*boolean"),
        ({"space": {"student.model": {"choice": ["lenet5"]}}}, "at least 2"),
        ({"space": {"student.model": {"choice": ["lenet5", "lenet5"]}}}, "same choice is given twice"),
        ({"space": {"student_optim.lr": {"uniform": [0, 1], "choice": [1, 2]}}}, "exactly one of uniform, loguniform"),
        ({"space": {"student_optim.lr": {"unifrom": [0, 1]}}}, "did you mean 'space.student_optim.lr.uniform'"),
        ({"space": {"student_optim.lr": {"itn": [0, 1]}}}, "did you mean 'space.student_optim.lr.int'"),
        ({"sampler": {"nam": "tpe"}}, "'sampler.nam' is not a field here; did you mean 'sampler.name'"),
        ({"then": {**THEN, "scheduler": {"grase": 1}}}, "did you mean 'then.scheduler.grace'"),
        ({"space": {"student_optim.lr": {**RATE, "when": {"x": 1}}}}, "depends on 'x', which is not in the space"),
        ({"space": {"method.latent_dim": {"int": [1, 2], "when": {"student_optim.lr": 1}}, "student_optim.lr": RATE}},
         "depends on 'student_optim.lr', which stands below it"),
        ({"space": {"seed": {"int": [1, 2]}, "student_optim.lr": {**RATE, "when": {"seed": 5}}}},
         "waits for 'seed' to be 5, which it never is"),
        ({"space": {"student_optim.lr": RATE, "seed": {"int": [1, 2], "when": {"student_optim.lr": 0.01}}}},
         "to be 0.01, which a number drawn from a range hardly ever is: make that one a choice or an int"),
        ({"objectives": ["agreemnt"]}, "unknown objective 'agreemnt'; did you mean 'agreement'"),
        ({"objectives": ["agreement", "agreement"]}, "given twice"),
        ({"objectives": ["agreement", "parameters"], "scheduler": {"name": "asha"}},
         "'asha' ends trials by one objective, and there are 2"),
        ({"objectives": ["agreement", "parameters"], "sampler": {"name": "cmaes"}}, "knows one objective only"),
        ({"sampler": {"name": "cmaes"}}, "needs every field in every trial"),
        ({"sampler": {"name": "cmaes"}, "space": {"student.model": SPACE["student.model"]}}, "the space has none"),
        ({"sampler": {"name": "tpp"}}, "sampler.name"),
        ({**POPULATION, "trials": 1}, "trials is 1: give more"),
        ({**POPULATION, "points": [{"method.entropy_weight": 1}] * 5}, "there are 5 for 4 members: leave some out"),
        ({**POPULATION, "earlier": "runs"}, "no sampler proposes for 'pbt' that could learn from 'earlier'"),
        ({"seeds": 2, "space": {"seed": {"int": [0, 9]}}}, "each trial has 2 of them"),
        ({"overrides": {"student.model": "lenet5"}}, "is both in overrides, so fixed, and in the space"),
        ({"points": [{"student_optim.l": 1}]}, "a point names 'student_optim.l', which is not in the space"),
        ({"points": [{"method.latent_dim": 30}]}, "a point has 'method.latent_dim' at 30, outside of \\[10, 20\\]"),
        ({"recipe": "dafl_digit"}, "unknown recipe 'dafl_digit'; did you mean 'dafl_digits'"),
        ({"name": "x"}, "called like its file"),
        ({"images": 5}, "it stands in 'then'"),
        ({"recipe": "lsgdfd_digits", "space": {"bank.overrides.method.tv_wieght": RATE}}, "mean 'method.tv_weight'"),
        ({"then": {**THEN, "images": None}}, "say how large the frozen set is"),
        ({"then": {**THEN, "space": {"bank.seed": {"int": [1, 2]}}}}, "takes the generators of the first stage"),
        ({"then": {**THEN, "then": {**THEN, "name": "x"}}}, "two stages at most"),
        ({"then": THEN, "objectives": ["agreement", "parameters"]}, "by 2 objectives none is"),
        ({"then": {**THEN, "overrides": {"teacher": {"recipe": "supervised_digits_lenet5_bn"}}}}, "they must be one"),
        ({"then": {**THEN, "recipe": "lsgdfd_digits"}}, "needs a 'bank' section"),
        ({"then": {**THEN, "space": {"student_optim.l": RATE}}}, "did you mean 'student_optim.lr'"),
        ({"trails": 3}, "did you mean 'trials'"),
    ],
)  # fmt: skip
def test_a_slip_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        made(tmp_path, **changes)


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


def test_numbers_with_an_exponent_are_numbers_in_every_place(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(
        "recipe: kd_digits\n"
        "overrides: {method.temperature: 1E1}\n"
        "space:\n"
        "  student_optim.lr: {loguniform: [1e-4, 1e-2]}\n"
        "  method.alpha: {choice: [1e-1, .5]}\n"
        "  schedule.steps: {int: [500, 1e3]}\n"
        "  student_optim.weight_decay: {uniform: [0, 1e-3], when: {method.alpha: 1e-1}}\n"
        "points: [{student_optim.lr: 1e-3, method.alpha: 5e-1, schedule.steps: 6e2}]\n"
    )
    space = load_space(str(path), ["schedule.report_every=1e2"])
    assert space.space["method.alpha"].choice == (0.1, 0.5)
    assert space.space["student_optim.weight_decay"].when == {"method.alpha": 0.1}
    (point,) = list_given(space)
    assert point == {"student_optim.lr": 0.001, "method.alpha": 0.5, "schedule.steps": 600}
    assert type(point["schedule.steps"]) is int
    assert space.make_recipe({}).schedule.report_every == 100


def test_a_point_in_quotes_is_text(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"at the text '12:30', and a number in \[.*\] is allowed: write digits without"
    ):
        made(tmp_path, recipe="kd_digits", space={"student_optim.lr": RATE}, points=[{"student_optim.lr": "12:30"}])
