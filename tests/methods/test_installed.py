"""Entry points of packages: which method a name means, and one line for every way in which a package can be wrong."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import TypeAdapter

from raykd.cli.app import app
from raykd.errors import SetupError, UsageError
from raykd.methods import METHODS, MethodConfig
from raykd.methods.kd import Kd, KdConfig
from raykd.recipe.recipe import load_recipe
from tests.methods.packages import install

GOOD = """'''Does nothing, quickly.

More than a line.
'''
from typing import Literal
from raykd.config.base import Config
from raykd.methods import Method


class FineConfig(Config):
    name: Literal["fine"]
    strength: float = 1.0


class Fine(Method):
    config = FineConfig

    def step(self, batches):
        return {}


class Unconfigured(Method):
    def step(self, batches):
        return {}


class Nameless(Fine):
    config = Config


def function():
    return None
"""
FORGETFUL = """from raykd.methods import Method


class Forgetful(Method):
    def sample(self, num_images, seed):
        return None
"""
RECIPE = """
data: digits
teacher: {recipe: supervised_digits_lenet5}
student: {model: lenet5_half}
method: {name: fine, strength: 2}
student_optim: {name: adam, lr: 0.001}
schedule: {steps: 4, report_every: 2, global_batch: 8}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; what was imported from it is forgotten at the end."""
    before = set(METHODS)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(folder))
    Path("mine.yaml").write_text(RECIPE)
    yield folder
    for name in set(METHODS) - before:
        del METHODS[name]
    for name in [n for n, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def test_a_method_is_found_by_its_entry_point(site: Path) -> None:
    install(site, "fine-methods", {"fine_module": GOOD}, {"fine": "fine_module:Fine"})
    assert METHODS["fine"].__name__ == "Fine"
    assert METHODS["fine"] is METHODS["fine"]
    recipe = load_recipe("mine.yaml")
    assert recipe.method.model_dump() == {"name": "fine", "strength": 2.0}
    assert recipe.model_dump(mode="json")["method"] == {"name": "fine", "strength": 2.0}
    assert load_recipe("mine.yaml", ["method.strength=3"]).method.model_dump()["strength"] == 3


def test_a_wrong_key_of_its_section_gets_the_nearest_one(site: Path) -> None:
    install(site, "fine-methods", {"fine_module": GOOD}, {"fine": "fine_module:Fine"})
    Path("mine.yaml").write_text(RECIPE.replace("strength: 2", "strenght: 2"))
    with pytest.raises(
        UsageError, match="^mine.yaml: method: fine: 'strenght' is not a field .* mean 'strength'"
    ) as no:
        load_recipe("mine.yaml")
    assert "{" not in str(no.value), "the section is not repeated"
    with pytest.raises(UsageError, match="'method.strenght' is not a field.*did you mean 'method.strength'"):
        Path("mine.yaml").write_text(RECIPE)
        load_recipe("mine.yaml", ["method.strenght=2"])


def test_an_unknown_method_gets_the_nearest_of_all_packages(site: Path) -> None:
    install(site, "fine-methods", {"fine_module": GOOD}, {"fine": "fine_module:Fine"})
    for name, nearest in {"finne": "fine", "dafll": "dafl"}.items():
        with pytest.raises(UsageError, match=f"method: unknown method '{name}'; did you mean '{nearest}'"):
            Path("mine.yaml").write_text(RECIPE.replace("name: fine, strength: 2", f"name: {name}"))
            load_recipe("mine.yaml")
        with pytest.raises(UsageError, match=f"unknown method '{name}'; did you mean '{nearest}'"):
            METHODS[name]
    assert "fine_module" not in sys.modules


def test_a_name_of_raykds_own_is_raykds(site: Path) -> None:
    install(site, "other-kd", {"other": "raise SystemError"}, {"kd": "other:Kd"})
    assert METHODS["kd"] is Kd
    assert METHODS.names().count("kd") == 1
    assert isinstance(TypeAdapter(MethodConfig).validate_python({"name": "kd"}), KdConfig)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("absent:Fine", "cannot be imported (ModuleNotFoundError: No module named 'absent'); mend or uninstall"),
        ("fine_module:Absent", "cannot be imported (AttributeError: "),
        ("broken:Fine", "cannot be imported (SyntaxError: "),
        ("forgetful:Forgetful", "cannot be imported (TypeError: Forgetful: makes_images is False, which 'sample'"),
        ("fine_module:function", "is no subclass of raykd.methods.Method; mend the package"),
        ("fine_module:Unconfigured", "has no 'config', a subclass of raykd.config.base.Config"),
        ("fine_module:Nameless", "the 'name' of its Config is missing and must be Literal['mine']"),
        ("fine_module:Fine", "the 'name' of its FineConfig is 'fine' and must be Literal['mine']"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line_with_its_package(site: Path, target: str, says: str) -> None:
    modules = {"fine_module": GOOD, "broken": "def", "forgetful": FORGETFUL}
    install(site, "bad-methods", modules, {"mine": target})
    Path("mine.yaml").write_text(RECIPE.replace("name: fine", "name: mine"))
    with pytest.raises(SetupError) as caught:
        load_recipe("mine.yaml")
    assert f"method 'mine' of package bad-methods ({target})" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_of_two_packages_is_none(site: Path) -> None:
    install(site, "one", {"fine_module": GOOD}, {"fine": "fine_module:Fine"})
    install(site, "two", {}, {"fine": "fine_module:Fine"})
    with pytest.raises(SetupError, match="method 'fine' is in several packages, one, two: uninstall all but one"):
        load_recipe("mine.yaml")


def test_the_list_has_them_all_also_beside_a_broken_one(site: Path) -> None:
    install(site, "fine-methods", {"fine_module": GOOD}, {"fine": "fine_module:Fine", "bad": "absent:Bad"})
    done = CliRunner().invoke(app, ["list", "methods", "--json"], prog_name="raykd")
    assert done.exit_code == 0
    found = {one["name"]: one["description"] for one in json.loads(done.stdout)["methods"]}
    assert set(found) == {*METHODS, "bad"}
    assert found["fine"] == "Does nothing, quickly."
    assert found["bad"].startswith("method 'bad' of package fine-methods (absent:Bad) cannot be imported")
