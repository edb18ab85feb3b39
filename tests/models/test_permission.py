"""Code runs only if this user has named it: in this process, or before, which is remembered by function and file."""

import ast
import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from raykd.models import permission
from raykd.models.permission import CodeRefused, permit, require_permission
from raykd.recipe.sections import NetworkConfig
from tests.architecture.imports import ROOT, sources


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a module, of a user who has named nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text("raise SystemExit('imported')")
    another_process(monkeypatch)


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permission, "_permitted", set())


def section(factory: str = "mine:net", **arguments: Any) -> NetworkConfig:
    return NetworkConfig(factory=factory, factory_args=arguments)


def is_permitted(one: NetworkConfig) -> bool:
    try:
        require_permission(one, "run x")
    except CodeRefused:
        return False
    return True


def test_a_refusal_names_run_function_file_and_both_ways_on(tmp_path: Path) -> None:
    with pytest.raises(CodeRefused) as caught:
        require_permission(section(), "run x")
    assert caught.value.exit_code == 2
    for words in ("run x names factory mine:net", f"code in {tmp_path}/mine.py", "--allow-code", "`raykd train`"):
        assert words in str(caught.value)
    with pytest.raises(CodeRefused, match="a module that is not in .* and not installed"):
        require_permission(section("absent:net"), "run x")


def test_what_was_named_is_known_later_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    permit([section(), section(depth=20), NetworkConfig(model="lenet5")])
    for _ in range(2):
        assert [is_permitted(section()), is_permitted(section(depth=20))] == [True, True]
        assert not is_permitted(section(depth=32)), "arguments decide what a function does"
        assert not is_permitted(section("mine:other"))
        another_process(monkeypatch)
    permit([section()])
    assert len((tmp_path / "state" / "raykd" / "code").read_text().splitlines()) == 2, "each once"


def test_a_module_of_the_same_name_elsewhere_is_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    permit([section()])
    elsewhere = tmp_path / "downloaded"
    elsewhere.mkdir()
    (elsewhere / "mine.py").touch()
    monkeypatch.chdir(elsewhere)
    assert not is_permitted(section())


def test_what_is_allowed_once_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    permit([section()], remember=False)
    assert is_permitted(section())
    another_process(monkeypatch)
    assert not is_permitted(section())


def test_a_record_that_others_may_write_counts_for_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    permit([section()])
    another_process(monkeypatch)
    os.chmod(tmp_path / "state" / "raykd" / "code", 0o620)
    assert not is_permitted(section())


@pytest.mark.parametrize("home", [None, "/proc/nowhere"])
def test_without_a_home_the_process_itself_still_runs_what_it_names(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", home or "")
    monkeypatch.setattr(Path, "expanduser", _no_home if home is None else Path.expanduser)
    permit([section()])
    assert is_permitted(section())
    another_process(monkeypatch)
    assert not is_permitted(section())


def _no_home(path: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_record_beside_what_was_downloaded_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A state folder that is relative would be one of the folder at hand."""
    permit([section()])
    another_process(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert not is_permitted(section())


def test_arguments_are_known_again_as_a_record_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given = section(since=date(2024, 1, 2), widths={2: 16, 10: 32}, mixed={1: "a", "b": 2})
    permit([given])
    another_process(monkeypatch)
    assert is_permitted(NetworkConfig.model_validate(json.loads(given.model_dump_json())))
    assert not is_permitted(section(since=date(2024, 1, 3), widths={2: 16, 10: 32}, mixed={1: "a", "b": 2}))


def test_networks_of_raykd_and_of_memory_are_no_code() -> None:
    assert is_permitted(NetworkConfig(model="lenet5"))
    assert is_permitted(section("in-memory:0123456789abcdef"))


def test_a_factory_is_called_in_two_places_only() -> None:
    """Where a recipe's network is built, behind the question, and for the class of a network in memory."""
    calling = {
        path.relative_to(ROOT / "raykd").as_posix()
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "load_factory"
    }
    assert calling == {"engine/build.py", "tasks/objects.py"}
