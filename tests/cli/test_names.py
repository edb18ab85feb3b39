"""Names are told, and completed, without loading what they name."""

import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from raykd.cli.app import app
from raykd.cli.names import data_set_names, method_names, packaged_recipes
from tests.cli.conftest import Raykd


def test_names_are_told_without_loading_recipes() -> None:
    assert all(packaged_recipes().values()), "a recipe's first line is a comment on it"


OLDER_CLICK = """
import click

def refuse(cls, item):
    raise TypeError("type 'ParamType' is not subscriptable")

click.ParamType.__class_getitem__ = classmethod(refuse)
from raykd.cli import names, plan
print(names.KindType(["recipes", "tables"]).get_metavar(None))
"""


def test_types_of_arguments_serve_older_versions_of_click() -> None:
    """Before 8.3 its types take no argument, and before 8.2 they are given no context."""
    done = subprocess.run([sys.executable, "-c", OLDER_CLICK], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{recipes|tables}\n", "")


def completed(*words: str) -> list[str]:
    """What the shell is offered behind ``raykd``, the last word being written just now."""
    *args, incomplete = words
    return [item.value for item in ShellComplete(app, {}, "raykd", "_RAYKD_COMPLETE").get_completions(args, incomplete)]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["train", "dafl_dig"], ["dafl_digits"]),
        (["train", "./my"], ["./my"]),
        (["plan", "dafl_dig"], ["dafl_digits"]),
        (["inspect", "dafl_dig"], ["dafl_digits"]),
        (["table", "dafl_cel"], ["dafl_cel"]),
        (["tune", "dafl_digits_p"], ["dafl_digits_pbt"]),
        (["train", "dafl_digits", "--cluster", "gpu_"], ["gpu_cluster", "gpu_node"]),
        (["tune", "x", "--cluster", "ss"], ["ssh"]),
        (["cluster", "up", "ss"], ["ssh"]),
        (["cluster", "validate", "ss"], ["ssh"]),
        (["jobs", "list", "--cluster", "ss"], ["ssh"]),
        (["submit", "--", "tr"], ["train"]),
        (["submit", "--", "train", "dafl_dig"], ["dafl_digits"]),
        (["submit", "--", "tune", "dafl_digits_p"], ["dafl_digits_pbt"]),
        (["submit", "--cluster", "ss"], ["ssh"]),
        (["doctor", "--chaos", "dafl_dig"], ["dafl_digits"]),
        (["ood", "x", "--data", "usp"], ["usps"]),
        (["data", "fash"], ["fashion-mnist"]),
        (["list", "rec"], ["recipes"]),
        (["show", "met"], ["method"]),
        (["show", "method", "daf"], ["dafl"]),
        (["show", "cluster", "ss"], ["ssh"]),
    ],
)
def test_the_shell_completes_names_where_commands_take_them(words: list[str], offered: list[str]) -> None:
    assert completed(*words) == offered


def test_the_names_that_the_shell_is_offered_are_those_that_there_are() -> None:
    from raykd.data.datasets import DATASETS
    from raykd.methods import METHODS

    assert list(method_names()) == METHODS.names()
    assert list(data_set_names()) == list(DATASETS)


@pytest.mark.parametrize("word", ["recipe", "recipes", "RECIPE"])
def test_a_kind_is_taken_in_the_singular_and_the_plural(raykd: Raykd, word: str) -> None:
    assert raykd("list", word).exit_code == 0
    assert raykd("show", word, "dafl_digits").exit_code == 0


def test_another_kind_is_told_with_the_nearest(raykd: Raykd) -> None:
    done = raykd("list", "recips")
    assert done.exit_code == 2
    assert "did you mean 'recipes'?" in done.stderr


def test_what_is_told_of_a_recipe_is_a_whole_sentence() -> None:
    told = packaged_recipes()["fast_cifar10_wrn28_1"]
    assert told == (
        "Fast-DFKD on CIFAR-10 at a laptop's budget: from the published WRN-28-1 (92.89) in the data root's folder "
        "`teachers`, whose author's WRN-10-1 reaches 88.06 with the data."
    )
