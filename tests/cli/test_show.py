"""What stands in files that have names, and what may, is printed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from raykd.cluster.config import Cluster, load_cluster
from raykd.config.describe import describe_fields
from raykd.config.file_schema import file_schema
from raykd.methods import METHODS
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.recipe.recipe_schema import recipe_schema
from raykd.recipe.table import Table, load_table
from raykd.search.space import SearchSpace
from raykd.search.space_file import load_space
from tests.cli.conftest import Raykd

LOADERS: dict[str, tuple[str, Any, type[BaseModel]]] = {
    "recipe": ("dafl_mnist_quick", load_recipe, Recipe),
    "space": ("dafl_digits_pbt", load_space, SearchSpace),
    "cluster": ("local", load_cluster, Cluster),
    "table": ("digits", load_table, Table),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_is_printed_as_it_is_and_whole(raykd: Raykd, tmp_path: Path, kind: str) -> None:
    name, load, model = LOADERS[kind]
    plain = raykd("show", kind, name)
    assert plain.exit_code == 0, plain.stderr
    assert "$schema" not in plain.stdout, "the line leads nowhere from a copy"
    assert yaml.safe_load(plain.stdout)
    copy = tmp_path / f"{name}.yaml"
    for option in ((), ("--resolved",)):
        copy.write_text(raykd("show", kind, name, *option).stdout)
        assert load(str(copy)) == load(name), "what is printed is such a file"
    assert "extends" not in yaml.safe_load(copy.read_text())
    schema = json.loads(raykd("show", kind, name, "--schema").stdout)
    assert schema == (recipe_schema() if kind == "recipe" else file_schema(model))


@pytest.mark.parametrize("name", METHODS)
def test_every_field_of_a_method_is_printed_with_type_default_and_description(raykd: Raykd, name: str) -> None:
    done = raykd("show", "method", name)
    assert done.exit_code == 0, done.stderr
    printed = {line.split()[0]: line for line in done.stdout.splitlines()}
    for field in describe_fields(METHODS[name].config):
        assert field.description, f"{field.name} has no description"
        line = printed[f"method.{field.name}"]
        assert all(part in line for part in (field.default, field.description, f"[{field.type}]"))
    assert {f"method.{field}" for field in METHODS[name].config.model_fields} <= printed.keys()
    schema = json.loads(raykd("show", "method", name, "--schema").stdout)
    assert schema["properties"].keys() == METHODS[name].config.model_fields.keys()


@pytest.mark.parametrize("model", [Recipe, Cluster, SearchSpace, Table, *(METHODS[name].config for name in METHODS)])
def test_all_fields_that_users_write_have_descriptions(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    sections = {model.__name__: schema, **schema.get("$defs", {})}
    fields = {(name, key): field for name, one in sections.items() for key, field in one.get("properties", {}).items()}
    # The name that tells a section from others can be but one.
    assert [key for key, field in fields.items() if not field.get("description") and "const" not in field] == []


def test_the_defaults_of_a_method_are_a_section(raykd: Raykd) -> None:
    section = yaml.safe_load(raykd("show", "method", "dafl", "--resolved").stdout)
    assert METHODS["dafl"].config.model_validate(section) == METHODS["dafl"].config.model_validate({"name": "dafl"})
    lacking = raykd("show", "method", "pixel_inversion", "--resolved")
    assert lacking.exit_code == 2
    assert "'pixel_optim' is required; 'images' is required" in lacking.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("recipe", "dafl_digit"), "did you mean 'dafl_digits'"),
        (("method", "dafll"), "unknown method 'dafll'; did you mean 'dafl'"),
        (("cluster", "locl"), "did you mean 'local'"),
        (("space", "dafl_digits_ptb"), "did you mean 'dafl_digits_pbt'"),
        (("table", "digit"), "did you mean 'digits'"),
        (("recipe", "absent.yaml"), "no recipe file 'absent.yaml'"),
        (
            ("recipe", "dafl_digits", "--resolved", "--schema"),
            "give one of --resolved, --diff (which compares what is resolved) and --schema",
        ),
        (("recipe", "dafl_digits", "--diff", "dafl_digit"), "did you mean 'dafl_digits'"),
    ],
)
def test_what_is_not_there_is_told(raykd: Raykd, arguments: tuple[str, ...], says: str) -> None:
    done = raykd("show", *arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_recipe_of_a_command_line_is_printed_whole_and_trains_as_it_would(raykd: Raykd, tmp_path: Path) -> None:
    assert raykd("config", "dafl_digits").stdout == raykd("show", "recipe", "dafl_digits").stdout
    told = raykd("config", "dafl_digits", "schedule.steps=1000", "student.model=lenet5")
    (tmp_path / "mine.yaml").write_text(told.stdout)
    expected = load_recipe("dafl_digits", ["schedule.steps=1000", "student.model=lenet5"])
    assert load_recipe(str(tmp_path / "mine.yaml")) == expected
    again = raykd("config", "mine.yaml", "--diff", "dafl_digits")
    assert [line.split()[1::2] for line in again.stdout.splitlines() if line.startswith("│")] == [
        ["student.model", "lenet5", "lenet5_half"],
        ["schedule.steps", "1000", "500"],
    ]
    both = raykd("config", "dafl_digits", "schedule.steps=1000", "--diff", "dafl_digits")
    assert [line.split()[1] for line in both.stdout.splitlines() if line.startswith("│")] == ["schedule.steps"]
    for options, says in (
        (("--resolved", "--diff", "dafl_digits"), "give one of --resolved, --diff"),
        (("--schema",), "leave out 'schedule.steps=1000'"),
    ):
        refused = raykd("config", "dafl_digits", "schedule.steps=1000", *options)
        assert (refused.exit_code, refused.stdout, says in refused.stderr) == (2, "", True)
    slip = raykd("config", "dafl_digits", "schedule.step=3")
    assert (slip.exit_code, "did you mean 'schedule.steps'" in slip.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("recipe", "kd_digits", "--diff", "kd_cifar10"), "student_optim.lr"),
        (("cluster", "local", "--diff", "gpu_node"), "gpus_per_worker"),
        (("space", "dafl_digits", "--diff", "dafl_mnist"), "recipe"),
        (("table", "digits", "--diff", "dafl_mnist"), "title"),
    ],
)
def test_files_of_a_kind_are_compared_by_their_dotted_fields(raykd: Raykd, words: tuple[str, ...], field: str) -> None:
    told = raykd("show", *words)
    assert told.exit_code == 0, told.stderr
    assert field in [line.split()[1] for line in told.stdout.splitlines() if line.startswith("│")]
    same = raykd("show", *words[:3], words[1])
    assert same.stdout == f"{words[1]} and {words[1]} do not differ\n"
