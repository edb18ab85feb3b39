from pathlib import Path

import pytest

from raykd.config.catalog import Catalog
from raykd.errors import UsageError


@pytest.mark.parametrize("extensible", [True, False])
def test_only_an_extensible_catalog_looks_into_the_users_folder(
    extensible: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    for name in ("mine", "kd_digits"):
        (tmp_path / f"recipes/{name}.yaml").touch()
    monkeypatch.chdir(tmp_path)
    catalog = Catalog("recipe", folder="recipes", listing="recipes", extensible=extensible)
    assert ("mine" in catalog.files()) is extensible
    assert (catalog.find("kd_digits") == Path("recipes/kd_digits.yaml")) is extensible, "the user's own comes first"
    assert catalog.find("recipes/mine.yaml") == Path("recipes/mine.yaml")


@pytest.mark.parametrize(
    ("source", "says"), [("spce", "unknown space 'spce'"), ("no/a", "no space file 'no/a'; `raykd")]
)
def test_what_is_not_there_is_told_with_how_to_list_all(source: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Catalog("space", folder="recipes", listing="spaces").find(source)


def test_of_a_folder_the_file_in_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(UsageError, match=f"did you mean '{tmp_path}/recipe.yaml'"):
        Catalog("recipe", folder="recipes", listing="recipes").find(str(tmp_path))
