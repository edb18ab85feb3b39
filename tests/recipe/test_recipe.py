import json
import shutil
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.cli.names import packaged_recipes
from raykd.config.optim import Sgd
from raykd.config.yaml_file import load_yaml
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, dump_recipe, load_recipe, recipe_from_dict

PACKAGED = Path(__file__).parents[2] / "raykd" / "recipes"
MADE = """
data: digits
teacher: {model: lenet5, weights: teacher.safetensors}
student: {model: lenet5_half}
method: {name: kd, alpha: 0.5}
student_optim: {name: adam, lr: 3e-4}
schedule: {steps: 10, report_every: 5, global_batch: 16}
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made.yaml"
    path.write_text(MADE)
    return path


def leaves(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict) and key != "overrides":  # whose own keys are dotted
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def without(data: dict[str, Any], key: str) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    kept = {other: value for other, value in data.items() if other != first}
    return {**kept, first: without(data[first], rest)} if rest else kept


def restated(variant: Path, scratch: Path) -> list[str]:
    """Name the leaves without which a variant would be the same recipe."""
    own = load_yaml(variant)
    if "extends" not in own:
        return []
    shutil.copy(variant.parent / f"{own['extends']}.yaml", scratch)
    shorter = scratch / variant.name
    found = []
    for key, _ in leaves(own):
        shorter.write_text(yaml.safe_dump(without(own, key)))
        try:
            same = load_recipe(str(shorter)) == load_recipe(str(variant))
        except UsageError:
            same = False
        found += [key] if same else []
    return found


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_load_and_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    dumped = tmp_path / "recipe.yaml"
    dumped.write_text(dump_recipe(recipe))
    assert load_recipe(str(dumped)) == recipe
    assert resolve(load_recipe(str(dumped))).run_id == resolve(recipe).run_id
    assert recipe_from_dict(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_name_recipes_that_exist(name: str) -> None:
    recipe = load_recipe(name)
    named = [*recipe.controls, *([recipe.teacher.recipe] if recipe.teacher else [])]
    assert {other for other in named if other} <= set(packaged_recipes()) - {name}


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_restate_nothing_they_inherit(name: str, tmp_path: Path) -> None:
    assert restated(PACKAGED / f"{name}.yaml", tmp_path) == []


def test_restating_is_noticed(made: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    variant = made.with_name("variant.yaml")
    variant.write_text("extends: made\nmethod: {alpha: 0.5}\nschedule: {steps: 20}\n")
    assert restated(variant, tmp_path / "scratch") == ["method.alpha"]


def test_a_variant_is_its_difference(made: Path) -> None:
    variant = made.with_name("variant.yaml")
    variant.write_text("extends: made\nmethod: {alpha: 0.9}\ndata: {size: 64}\n")
    base, own = load_recipe(str(made)), load_recipe(str(variant))
    assert own.name == "variant"
    assert (own.method.alpha, own.data.size) == (0.9, 64)  # type: ignore[union-attr]
    unchanged = {"name", "method", "data"}
    assert own.model_dump(exclude=unchanged) == base.model_dump(exclude=unchanged)
    assert own.data.name == "digits"


def test_a_section_of_another_kind_replaces_the_inherited_one(made: Path) -> None:
    variant = made.with_name("variant.yaml")
    variant.write_text(
        "extends: made\nmethod: {name: noise}\nstudent_optim: {name: sgd, lr: 0.1}\n"
        "teacher: {recipe: supervised_digits_lenet5}\n"
    )
    recipe = load_recipe(str(variant))
    assert recipe.method.model_dump() == {"name": "noise", "temperature": 1.0}
    assert recipe.student_optim == Sgd(name="sgd", lr=0.1)
    assert recipe.teacher is not None
    assert recipe.teacher.recipe == "supervised_digits_lenet5"


def test_a_variant_may_extend_a_packaged_recipe(made: Path) -> None:
    variant = made.with_name("variant.yaml")
    variant.write_text("extends: dafl_digits\nmethod: {latent_dim: 7}\n")
    assert load_recipe(str(variant)).method.latent_dim == 7  # type: ignore[union-attr]


def test_recipes_extend_to_any_depth(made: Path) -> None:
    previous = "dafl_mnist_quick"  # which extends a recipe itself
    for level in range(5):
        made.with_name(f"level{level}.yaml").write_text(f"extends: {previous}\nschedule: {{steps: {10 + level}}}\n")
        previous = f"level{level}"
    made.with_name("last.yaml").write_text("extends: level4.yaml\nname: other\nmethod: {latent_dim: 7}\n")
    recipe, base = load_recipe(str(made.with_name("last.yaml"))), load_recipe("dafl_mnist_quick")
    assert (recipe.name, recipe.schedule.steps) == ("other", 14)
    assert recipe.method == base.method.model_copy(update={"latent_dim": 7})
    assert recipe.published == base.published != {}


def test_a_circle_of_recipes_is_refused(made: Path) -> None:
    made.with_name("first.yaml").write_text("extends: second\n")
    made.with_name("second.yaml").write_text("extends: third\n")
    made.with_name("third.yaml").write_text("extends: second\n")
    with pytest.raises(UsageError, match=r"first.yaml: .*in a circle: second -> third -> second; let one"):
        load_recipe(str(made.with_name("first.yaml")))
    made.with_name("own.yaml").write_text("extends: own\n")
    with pytest.raises(UsageError, match=r"in a circle: own -> own"):
        load_recipe(str(made.with_name("own.yaml")))


def test_a_file_may_extend_the_packaged_recipe_of_its_name(made: Path) -> None:
    own = made.with_name("dafl_digits.yaml")
    own.write_text("extends: dafl_digits\nmethod: {latent_dim: 7}\n")
    assert load_recipe(str(own)).method == load_recipe("dafl_digits").method.model_copy(update={"latent_dim": 7})


def test_a_bare_name_of_a_method_is_one_with_its_defaults(made: Path) -> None:
    lines = [line for line in MADE.strip().splitlines() if not line.startswith("method:")]
    for name in ("dafl", "kd", "adversarial", "mosaickd"):
        other = "\ndata: {name: digits, ood: mnist}" if name == "mosaickd" else "\ndata: digits"
        made.write_text("\n".join(lines[1:]) + f"{other}\nmethod: {name}\n")
        recipe = load_recipe(str(made))
        assert recipe.method.model_dump(exclude_unset=True) == {"name": name}
    made.write_text(made.read_text().replace("mosaickd", "dafl").replace("{name: digits, ood: mnist}", "digits"))
    rate = load_recipe(str(made), ["method.generator_optim.lr=0.5"]).method.generator_optim  # type: ignore[union-attr]
    assert (rate.name, rate.lr) == ("adam", 0.5)
    made.write_text(made.read_text().replace("dafl", "dafll"))
    with pytest.raises(UsageError, match="'dafll'.*'dafl'"):
        load_recipe(str(made))
    made.with_name("variant.yaml").write_text("extends: dafl_digits\nmethod: noise\n")
    assert load_recipe(str(made.with_name("variant.yaml"))).method.name == "noise"


def test_a_name_that_no_file_system_has_is_unknown(made: Path) -> None:
    made.with_name("second.yaml").write_text(f"extends: {'x' * 300}\n")
    with pytest.raises(UsageError, match="unknown recipe 'x"):
        load_recipe(str(made.with_name("second.yaml")))
    with pytest.raises(UsageError, match="no recipe file"):
        load_recipe(f"{'x' * 300}.yaml")


def test_numbers_without_a_point_are_floats(made: Path) -> None:
    for pairs, lr in (([], 3e-4), (["student_optim.lr=1e-5"], 1e-5)):
        optim = load_recipe(str(made), pairs).student_optim
        assert optim is not None
        assert optim.lr == lr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("colour: 1", "'colour' is not a field here"),
        ("scheduel: {}", "did you mean 'schedule'"),
        ("method: {name: kd, alfa: 1}", "'method.alfa' .*did you mean 'method.alpha'"),
        ("student_optim: {name: adam, lrr: 1}", "'student_optim.lr' is required"),
        ("student_optim: {name: adam, lr: 1, beta: 1}", "did you mean 'student_optim.betas'"),
        ("student_optim: {name: adam, lr: 1, schedule: {name: cosine, flor: 0.1}}",
         "'student_optim.schedule.flor' is not .* did you mean 'student_optim.schedule.floor'"),
        ("changes: [{at: 5, valeus: {}}]", "did you mean 'changes.0.values'"),
        ("report_every: 5", "'report_every' is not a field here; did you mean 'schedule.report_every'"),
        ("method: {name: dafll}", "method: .*'dafll'.*'dafl'"),
        ("lr: 0.1", "did you mean 'student_optim.lr'"),
        ("method: {name: kd, lr: 1}", "'method.lr' is not a field here; did you mean 'student_optim.lr'"),
        ("precision: bf16", "'precision' belongs to the machines: .*--cluster FILE"),
        ("runtime: {precision: bf16}", "'runtime' is not a field here; .*cluster file"),
        ("method: {}", "method: 'name' is required; it is one of 'supervised', .*'mosaickd'"),
        ("student_optim: {lr: 0.1}", "student_optim: 'name' is required; it is one of 'sgd', 'adam', 'adamw'"),
        ("student_optim: null", "method 'kd' needs a 'student_optim' section; a whole recipe is"),
        ("schedule: {steps: 10}", "'schedule.report_every' is required"),
        ("1: 2", "Keys should be strings"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_explained(made: Path, line: str, says: str) -> None:
    key = line.partition(":")[0]
    kept = [other for other in MADE.strip().splitlines() if not other.startswith(f"{key}:")]
    made.write_text("\n".join([*kept, line]))
    with pytest.raises(UsageError, match=rf"made\.yaml: .*{says}"):
        load_recipe(str(made))


def test_an_unknown_recipe_gets_the_nearest_match() -> None:
    with pytest.raises(UsageError, match="did you mean 'dafl_digits'"):
        load_recipe("dafl_digit")
    with pytest.raises(UsageError, match="no recipe file 'absent.yaml'"):
        load_recipe("absent.yaml")


def with_content(recipe: Recipe, **changes: Any) -> str:
    return resolve(recipe_from_dict({**recipe.model_dump(mode="json"), **changes})).run_id


def test_run_id_is_name_hash_and_seed(made: Path) -> None:
    recipe = load_recipe(str(made), ["seed=3"])
    name, digest, seed = resolve(recipe).run_id.rsplit("-", 2)
    assert (name, seed) == ("made", "s3")
    assert len(digest) == 8
    assert int(digest, 16) >= 0


def test_run_id_is_stable(made: Path) -> None:
    recipe = load_recipe(str(made))
    data = recipe.model_dump(mode="json")
    backwards = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(data.items())
    }
    assert resolve(recipe_from_dict(backwards)).run_id == resolve(recipe).run_id
    made.write_text("\n".join(reversed(MADE.strip().splitlines())) + "\n# a remark\n")
    assert resolve(load_recipe(str(made))).run_id == resolve(recipe).run_id


def test_the_hash_leaves_out_what_does_not_change_the_result(made: Path) -> None:
    recipe = load_recipe(str(made))
    for change in ({"controls": ["noise_digits"]}, {"published": {"last": 98.2}}):
        assert with_content(recipe, **change) == resolve(recipe).run_id
    digest = resolve(recipe).content_hash
    assert with_content(recipe, seed=9) == f"made-{digest}-s9"
    assert with_content(recipe, name="other") == f"other-{digest}-s0"


@pytest.mark.parametrize(
    "pair",
    [
        "data.name=mnist", "data.size=64", "data.mean=[0.1]", "data.std=[0.1]",
        "data.augment=[crop]", "student.model=lenet5", "student.weights=x", "teacher.model=lenet5_bn",
        "teacher.weights=y", "method.alpha=0.6", "method.temperature=2", "student_optim.name=adamw",
        "student_optim.lr=3.1e-4", "student_optim.betas=[0.5, 0.9]", "student_optim.weight_decay=0.1",
        "student_optim.warmup_steps=1", "student_optim.schedule={name: cosine}",
        "schedule.steps=11", "schedule.report_every=1", "schedule.global_batch=17",
    ],
)  # fmt: skip
def test_the_hash_changes_with_everything_else(made: Path, pair: str) -> None:
    assert resolve(load_recipe(str(made), [pair])).content_hash != resolve(load_recipe(str(made))).content_hash


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc", "a/b", "a\\b", "", ".", "..", "a b", "a\nb", "a\x00b", "x.yaml", "-x", "CON:",
     "\u0430", "a" * 101, "~", "$HOME", "a;b"],
)  # fmt: skip
def test_hostile_names_are_refused(made: Path, name: str) -> None:
    data = load_recipe(str(made)).model_dump(mode="json")
    with pytest.raises(UsageError, match="letters, digits|no control characters"):
        recipe_from_dict({**data, "name": name})


def test_published_figures_are_of_the_recipes_own_data_and_networks() -> None:
    assert load_recipe("blind_kd_mnist", ["schedule.steps=5"]).published == {"student": 94.56}
    for pair in ("data.ood=fashion-mnist", "student.model=lenet5", "teacher={recipe: supervised_mnist_lenet5_bn}"):
        assert load_recipe("blind_kd_mnist", [pair]).published == {}
    assert load_recipe("blind_kd_mnist", ["data.ood=digits", "published={student: 90}"]).published == {"student": 90}


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ("schedule: {steps: 5}", True),
        ("method: {temperature: 2}", True),
        ("student: {model: lenet5_half}", True),
        ("data: {size: 64}", False),
        ("data: {mean: [0.1], std: [0.3]}", False),
        ("student: {model: hinton800}", False),
        ("student: {factory: mine:net}", False),
        ("teacher: {model: lenet5, weights: w.safetensors}", False),
        ("method: noise", False),
    ],
)
def test_a_variant_of_other_data_or_networks_has_no_published_figures(made: Path, own: str, kept: bool) -> None:
    middle, variant = made.with_name("middle.yaml"), made.with_name("variant.yaml")
    middle.write_text("extends: dafl_mnist\nseed: 1\n")
    for base in ("dafl_mnist", "middle"):
        variant.write_text(f"extends: {base}\n{own}\n")
        assert load_recipe(str(variant)).published == (load_recipe("dafl_mnist").published if kept else {})
        made.with_name("last.yaml").write_text("extends: variant\nseed: 2\n")
        assert bool(load_recipe(str(made.with_name("last.yaml"))).published) == kept
    variant.write_text(f"extends: dafl_mnist\n{own}\npublished: {{student: 9}}\n")
    assert load_recipe(str(variant)).published["student"] == 9
    assert ("teacher" in load_recipe(str(variant)).published) == kept


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ([33.3], [78.6]),
        ([104, 117, 123], [1, 1, 1]),
        ([128], None),
    ],
)
def test_constants_of_bytes_are_refused(mean: list[float], std: list[float] | None) -> None:
    given = {"data.mean": mean, "data.std": std}
    pairs = [f"{key}={value}" for key, value in given.items() if value is not None]
    with pytest.raises(UsageError, match=r"of images in \[0, 1\].*divide both by 255"):
        load_recipe("kd_digits", pairs)


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0.0], [1.0]), ([0.5], [0.5]), ([-2.118], [4.367]), ([2.118], [1.0]), ([0.0], [1 / 255]), ([1.6], [0.4])],
)
def test_unusual_constants_of_unit_images_are_taken(mean: list[float], std: list[float]) -> None:
    data = load_recipe("kd_digits", [f"data.mean={mean}", f"data.std={std}"]).data
    assert (data.mean, data.std) == (tuple(mean), tuple(std))


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("schedule.steps=0100", "schedule.steps: 0100 is octal to some and decimal to others: write 100"),
        ("schedule.steps=12:30", r"schedule.steps: got '12:30'; .* \(write digits, such as 100\)"),
        ("student_optim.lr=1:30", r"student_optim.lr: got '1:30'; .* \(write digits, such as 0.1 or 1e-3\)"),
        ("student.weights=1e5", r"student.weights: got 100000.0; .* \(put it in quotes if text is meant\)"),
        ("student.weights=no", r"got False; .* \(yes, no, on and off are true and false to YAML: put it in quotes"),
        ("data=no", "yes, no, on and off"),
    ],
)
def test_what_yaml_takes_for_another_kind_is_told_with_what_to_write(pair: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe("kd_digits", [pair])


def test_a_number_that_is_text_stays_text(made: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(made), ["data='1e5'", "student.weights='0100'"])
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe
    assert (recipe.data.name, recipe.student and recipe.student.weights) == ("1e5", "0100")


def test_all_missing_sections_are_named_at_once_with_an_example_that_is_one(made: Path) -> None:
    made.write_text("data: digits\nmethod: {name: dafl, generator_optim: {name: adam, lr: 1}}\n")
    with pytest.raises(UsageError) as told:
        load_recipe(str(made))
    missing, _, example = str(told.value).partition("; a whole recipe is, for example, ")
    assert missing == (
        "made.yaml: 'schedule' is required; method 'dafl' needs a 'student' section; "
        "method 'dafl' needs a 'student_optim' section; method 'dafl' needs a 'teacher' section"
    )
    made.write_text(example)
    assert load_recipe(str(made)).method.name == "kd"
    made.write_text("data: digits\n")
    with pytest.raises(UsageError, match="'method' is required; 'schedule' is required; a whole recipe"):
        load_recipe(str(made))


def test_weights_beside_the_recipe_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.yaml").write_text(MADE.replace("teacher.safetensors", "t.safetensors"))

    def named(source: str) -> str | None:
        teacher = load_recipe(source).teacher
        return teacher.weights if teacher else None

    assert named("mine/own.yaml") == "t.safetensors", "to be found from here, or under the data root"
    Path("t.safetensors").touch()
    before = resolve(load_recipe("mine/own.yaml")).run_id
    assert named("mine/own.yaml") == "t.safetensors"
    (folder / "t.safetensors").touch()
    assert named("mine/own.yaml") == named(str(folder / "own.yaml")) == "mine/t.safetensors"
    monkeypatch.chdir(folder)
    assert named("own.yaml") == "t.safetensors"
    assert resolve(load_recipe("own.yaml")).run_id == before


def test_padding_is_part_of_the_run_id_where_it_is_used() -> None:
    plain, padded, none = (
        resolve(load_recipe("kd_digits", pairs)).run_id for pairs in ([], ["data.pad=2"], ["data.pad=0"])
    )
    assert plain == none != padded


def test_each_rewind_halves_all_rates_and_brings_other_noise() -> None:
    recipe = load_recipe("mosaickd_mnist")
    assert recipe.rewound(0) == recipe
    once, twice = recipe.rewound(1), recipe.rewound(2)
    assert len({recipe.seed, once.seed, twice.seed}) == 3
    for optim in ("method.generator_optim", "method.discriminator_optim", "student_optim"):
        rates = [attrgetter(f"{optim}.lr")(one) for one in (recipe, once, twice)]
        assert rates == [rates[0], rates[0] / 2, rates[0] / 4]
    back = {"seed": recipe.seed, "method": recipe.method, "student_optim": recipe.student_optim}
    assert twice.model_copy(update=back) == recipe
