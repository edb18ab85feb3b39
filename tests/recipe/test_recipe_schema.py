"""The schemas that editors read: they lie beside the packaged files, are those of the code, and say what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from raykd.cluster.config import Cluster
from raykd.config.catalog import CLUSTERS, RECIPES, SCHEMA_LINE, SPACES, TABLES, Catalog
from raykd.config.file_schema import file_schema, without_schema_line
from raykd.config.yaml_file import load_yaml
from raykd.recipe.recipe_schema import recipe_schema
from raykd.recipe.table import Table
from raykd.search.space import SearchSpace

KINDS: dict[str, tuple[Catalog, dict[str, Any]]] = {
    "recipe": (RECIPES, recipe_schema()),
    "table": (TABLES, file_schema(Table)),
    "space": (SPACES, file_schema(SearchSpace)),
    "cluster": (CLUSTERS, file_schema(Cluster)),
}
WHOLE = {
    "data": "digits",
    "teacher": {"recipe": "supervised_digits_lenet5"},
    "student": {"model": "lenet5_half"},
    "method": {"name": "dafl", "entropy_weight": 3},
    "student_optim": {"name": "adam", "lr": 1e-3},
    "schedule": {"steps": 4, "report_every": 2, "global_batch": 8},
}


def named_schema(file: Path) -> Path:
    """The schema that a file's first line names."""
    first = file.read_text().splitlines()[0]
    assert first.startswith(SCHEMA_LINE), f"{file} begins with no schema: `{SCHEMA_LINE}schema.json`"
    return file.parent / first.removeprefix(SCHEMA_LINE)


@pytest.mark.parametrize("kind", KINDS)
def test_every_packaged_file_names_the_schema_of_its_kind_and_keeps_it(kind: str) -> None:
    catalog, schema = KINDS[kind]
    files = catalog.files()
    assert files
    Draft202012Validator.check_schema(schema)
    for file in files.values():
        assert json.loads(named_schema(file).read_text()) == schema, "`make schemas` writes them anew"
        faults = [
            f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(load_yaml(file))
        ]
        assert faults == [], file


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_lies_in_the_folder_that_a_wheel_keeps(kind: str) -> None:
    """Folders move into the package as a whole, so a name without a folder leads there from everywhere."""
    catalog, _ = KINDS[kind]
    assert {named_schema(file).name for file in catalog.files().values()} == {"schema.json"}
    assert {named_schema(file).parent for file in catalog.files().values()} == {
        file.parent for file in catalog.files().values()
    }


@pytest.mark.parametrize(
    ("kind", "content", "is_right"),
    [
        ("recipe", WHOLE, True),
        ("recipe", {**WHOLE, "name": "mine", "method": "dafl"}, True),
        ("recipe", {"extends": "dafl_digits", "method": {"entropy_weight": 3}, "schedule": {"steps": 4}}, True),
        ("recipe", {**WHOLE, "extend": "dafl_digits"}, False),
        ("recipe", {key: WHOLE[key] for key in WHOLE if key != "schedule"}, False),
        ("recipe", {**WHOLE, "method": {"name": "dafl", "entropy_wieght": 3}}, False),
        ("recipe", {**WHOLE, "method": {"name": "kd", "entropy_weight": 3}}, False),
        ("recipe", {**WHOLE, "schedule": {"steps": "many"}}, False),
        ("recipe", {**WHOLE, "student_optim": {"name": "adamm", "lr": 1e-3}}, False),
        ("cluster", {"workers": [1, 4]}, True),
        ("cluster", {"name": "mine"}, False),
        ("cluster", {"worker": 3}, False),
        ("space", {"recipe": "dafl_digits", "space": {"seed": {"int": [0, 3]}}}, True),
        ("space", {"recipe": "dafl_digits", "space": {"seed": {"integer": [0, 3]}}}, False),
        ("space", {"recipe": "dafl_digits"}, False),
        ("table", {"title": "a", "source": "b", "columns": {"c": "d"}, "rows": []}, False),
    ],
)
def test_an_editor_says_what_raykd_says(kind: str, content: dict[str, Any], is_right: bool) -> None:
    assert Draft202012Validator(KINDS[kind][1]).is_valid(content) == is_right


def test_a_copy_is_without_the_line_and_other_comments_stay() -> None:
    text = f"{SCHEMA_LINE}schema.json\n# What it is.\ndata: digits\n"
    assert without_schema_line(text) == "# What it is.\ndata: digits\n"
    assert without_schema_line("# What it is.\n") == "# What it is.\n"
