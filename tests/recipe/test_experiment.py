"""A recipe is resolved once: ids stay, a record holds all recipes by their ids, and no name is looked up again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel

from raykd.cli.names import packaged_recipes
from raykd.config.yaml_file import union_members
from raykd.errors import UsageError
from raykd.methods.kd import KdConfig
from raykd.recipe.experiment import _always_hashed, _hashed_fields, experiment_from_dict, resolve
from raykd.recipe.recipe import Recipe, load_recipe

DEFAULTS = Path(__file__).with_name("defaults.json")
SMALL = ["schedule.steps=4", "schedule.report_every=2", "schedule.global_batch=16"]


def defaults() -> dict[str, Any]:
    """Every field of a recipe that has a default, by its path, with the name of a section of several kinds."""
    return dict(sorted(_defaults(Recipe, "")))


def _defaults(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, info in model.model_fields.items():
        if not info.is_required():
            value = info.get_default(call_default_factory=True)
            yield prefix + name, value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for kind in union_members(info.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                tag = get_args(kind.model_fields["name"].annotation) if "name" in kind.model_fields else ()
                yield from _defaults(kind, f"{prefix}{name}[{tag[0]}]." if tag else f"{prefix}{name}.")


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_a_default_never_changes() -> None:
    """Ids and stored recipes mean what they meant: a new meaning gets a new field, and that a line in the list."""
    frozen, now = json.loads(DEFAULTS.read_text()), plain(defaults())
    assert {key: now.get(key, "gone") for key in frozen} == frozen
    missing = {key: value for key, value in now.items() if key not in frozen}
    assert missing == {}, f"new fields: add these lines to {DEFAULTS.name}"


def test_what_is_always_hashed_exists() -> None:
    """The list is closed: a field that joins it changes every id, and one that is gone from recipes does too.

    Only a field that was required, and so always hashed, joins it when it gets a default.
    """
    assert len(_always_hashed()) == 342
    tops = {key.partition("[")[0].partition(".")[0] for key in _always_hashed()}
    assert tops <= set(Recipe.model_fields)


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        ("dafl_mnist", "dafl_mnist-110a26ee-s0"),
        ("dfad_digits", "dfad_digits-9676f9d3-s0"),
    ],
)
def test_a_default_for_what_was_required_changes_no_id(name: str, run_id: str) -> None:
    """Of recipes that state what is the default now."""
    settings = {"dafl_mnist": {"name": "adam", "lr": 2e-3}, "dfad_digits": {"name": "adam", "lr": 1e-3}}[name]
    recipe = load_recipe(name, [f"method.generator_optim={json.dumps(settings)}"])
    assert resolve(recipe).run_id == run_id


class Later(KdConfig):
    """The configuration of a method after somebody added a field."""

    name: Literal["kd"]
    patience: int = 3


def test_a_field_that_comes_later_changes_no_id_until_it_is_set() -> None:
    old, left = KdConfig(name="kd"), Later(name="kd")
    content = _hashed_fields(old, old.model_dump(mode="json"), "method[kd].")
    assert _hashed_fields(left, left.model_dump(mode="json"), "method[kd].") == content
    used = Later(name="kd", patience=4)
    assert _hashed_fields(used, used.model_dump(mode="json"), "method[kd].") == {**content, "patience": 4}


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        ("dafl_digits", "dafl_digits-afe0c2ea-s0"),
        ("kd_digits", "kd_digits-fdf99455-s0"),
        ("lsgdfd_digits_quick", "lsgdfd_digits_quick-623eaa54-s0"),
    ],
)
def test_ids_of_packaged_recipes_stay(name: str, run_id: str) -> None:
    assert resolve(load_recipe(name)).run_id == run_id


@pytest.mark.parametrize("name", packaged_recipes())
def test_the_record_is_read_back_whole_without_looking_up_a_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = resolve(load_recipe(name))
    record = plain(experiment.to_dict())
    assert set(record["runs"]) == {run.run_id for run in experiment.runs}
    monkeypatch.setattr("raykd.recipe.experiment.load_recipe", None)  # a call would fail
    assert experiment_from_dict(record) == experiment


def test_a_file_that_changes_later_changes_nothing_of_the_record(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.yaml"
    teacher.write_text("extends: supervised_digits_lenet5\nschedule: {steps: 6}\n")
    recipe = load_recipe("kd_digits", [f"teacher={{recipe: {teacher}}}", "controls=[]"])
    experiment = resolve(recipe)
    record = plain(experiment.to_dict())
    teacher.write_text("extends: supervised_digits_lenet5\nschedule: {steps: 7}\n")
    assert experiment_from_dict(record) == experiment
    assert resolve(recipe).run_id != experiment.run_id, "another teacher makes another run"
    teacher.unlink()
    assert experiment_from_dict(record) == experiment


def test_another_seed_is_what_resolving_it_gives() -> None:
    assert resolve(load_recipe("dafl_digits")).with_seed(3) == resolve(load_recipe("dafl_digits", ["seed=3"]))
    alone = resolve(load_recipe("dafl_digits")).without_controls()
    assert alone == resolve(load_recipe("dafl_digits", ["controls=[]"]))


def test_recipes_that_name_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    for one, other in ("ab", "ba"):
        (tmp_path / f"{one}.yaml").write_text(
            f"extends: kd_digits\ncontrols: []\nteacher: {{recipe: {tmp_path / other}.yaml}}\n"
        )
    with pytest.raises(UsageError, match="in a circle: a -> b -> a"):
        resolve(load_recipe(str(tmp_path / "a.yaml")))


@pytest.mark.parametrize(("runs", "controls"), [(26, 2), (3000, 1)])
def test_a_record_that_doubles_at_each_level_or_is_a_long_chain_is_refused(runs: int, controls: int) -> None:
    record = plain(resolve(load_recipe("supervised_digits_lenet5")).to_dict())
    entry = record["runs"][record["run"]]
    names = [f"t{number}-00000000-s0" for number in range(runs)]
    entries = {
        name: {
            **entry,
            "recipe": {**entry["recipe"], "name": f"t{number}"},
            "controls": names[number + 1 :][:1] * controls,
        }
        for number, name in enumerate(names)
    }
    with pytest.raises(UsageError, match="builds on more than 2000 runs, or more than 64 in a row"):
        experiment_from_dict({"run": names[0], "runs": entries})
    last = names[-60:]
    assert len(experiment_from_dict({"run": last[-8], "runs": {name: entries[name] for name in last}}).runs) == 8


def test_recipes_that_lead_too_deep_are_refused(tmp_path: Path) -> None:
    for number in range(70):
        recipe = {"extends": "supervised_digits_lenet5", "controls": [str(tmp_path / f"r{number + 1}.yaml")]}
        (tmp_path / f"r{number}.yaml").write_text(json.dumps(recipe))
    with pytest.raises(UsageError, match="more than 64 deep: 'r0'"):
        resolve(load_recipe(str(tmp_path / "r0.yaml")))


def broken_records() -> dict[str, Any]:
    record = plain(resolve(load_recipe("kd_digits", ["controls=[]"])).to_dict())
    run, (teacher, _) = record["run"], record["runs"]
    entry = record["runs"][run]
    return {
        "a list": [1],
        "nothing": {},
        "runs that are a list": {**record, "runs": [run]},
        "a run that is not there": {**record, "run": "other-00000000-s0"},
        "a run of its own": {**record, "runs": {**record["runs"], run: {**entry, "teacher": run}}},
        "a teacher that is not there": {**record, "runs": {run: entry}},
        "no recipe": {**record, "runs": {**record["runs"], run: {**entry, "recipe": None}}},
        "another's recipe": {**record, "runs": {**record["runs"], run: record["runs"][teacher]}},
        "controls that are a number": {**record, "runs": {**record["runs"], run: {**entry, "controls": 3}}},
    }


@pytest.mark.parametrize("kind", broken_records())
def test_what_is_no_record_is_refused_in_one_line(kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        experiment_from_dict(broken_records()[kind])
    assert "\n" not in str(caught.value)


def test_a_referee_may_be_several_and_one_is_what_it_was() -> None:
    """A list of one is another run than the one alone, whose id and record stay those of earlier versions."""
    one = {"recipe": "dafl_digits", "seed": 1, "images": 9}
    alone, listed, both = (
        resolve(load_recipe("kd_digits", [*SMALL, f"referee={json.dumps(referee)}"]))
        for referee in (one, [one], [one, {"run": "other", "images": 5}])
    )
    assert len({each.run_id for each in (alone, listed, both)}) == 3
    assert [len(each.sources) for each in (alone, listed, both)] == [2, 2, 2]
    assert both.referee_ids == [alone.referee_ids[0], "other"]
    assert [images.images for images in both.referee_sets] == [9, 5]
    assert "other" in both.built_upon
    record = both.to_dict()
    assert experiment_from_dict(plain(record)) == both
    earlier = plain(alone.to_dict())
    for entry in earlier["runs"].values():
        entry["referee"] = next(iter(entry.pop("referees")), None)
    assert experiment_from_dict(earlier) == alone


@pytest.mark.parametrize(
    ("recipe", "pair", "said"),
    [
        ("kd_digits", "bank={recipe: kd_digits, images: 3}", "'kd' makes no images"),
        ("dafl_digits", "referee={recipe: supervised_digits_lenet5, images: 3}", "'supervised' makes no images"),
        ("lsgdfd_digits", "bank={recipe: dafl_digits}", "'dafl' trains no bank that stays"),
        ("kd_digits", "bank={recipe: noise_digits, images: 3}", None),
        ("kd_digits", "bank={recipe: lsgdfd_digits, images: 3}", None),  # of the bank that it learns from
        ("lsgdfd_digits", "bank={recipe: lsgdfd_single_digits_bank}", None),
    ],
)
def test_generators_of_a_recipe_that_makes_none_are_refused_before_any_is_trained(
    recipe: str, pair: str, said: str | None
) -> None:
    named = load_recipe(recipe, ["controls=[]", pair])
    if said is None:
        assert resolve(named).sources
        return
    with pytest.raises(UsageError, match=said):
        resolve(named)
