"""Search spaces are data: what a trial's recipe is, and every slip named before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.search.grid import list_given
from raykd.search.space import SearchSpace
from raykd.search.space_file import load_space

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


def test_a_trials_recipe_is_what_train_would_make(tmp_path: Path) -> None:
    space = made(tmp_path, "schedule.steps=7", overrides={"schedule.report_every": 7})
    recipe = space.make_recipe({"student.model": "hinton800", "method.entropy_weight": 2.0})
    pairs = ["student.model=hinton800", "method.entropy_weight=2.0", "schedule.steps=7", "schedule.report_every=7"]
    assert resolve(recipe).run_id == resolve(load_recipe("dafl_digits", pairs)).run_id
    assert not recipe.controls


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
