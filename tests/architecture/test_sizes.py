"""Files stay small enough to be read, and none is a drawer for whatever had no place."""

from pathlib import Path

import pytest

from tests.architecture.imports import PACKAGE, ROOT, sources

DRAWERS = {"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"}


def limit(path: Path) -> int:
    """Lines a file may have: the loop fits a screen; beyond 500 a file holds more than one idea."""
    return 80 if path.relative_to(ROOT).as_posix() == f"{PACKAGE}/engine/fit.py" else 500


def python_files() -> list[Path]:
    return [path for name in (PACKAGE, "tests", "benchmarks") for path in sources(ROOT / name)]


def recipes() -> list[Path]:
    return sorted((ROOT / PACKAGE / "recipes").glob("*.yaml"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_too_long() -> None:
    long = {str(p.relative_to(ROOT)): n for p in python_files() if (n := lines(p)) > limit(p)}
    assert long == {}


def test_recipes_stay_data() -> None:
    assert recipes(), "no packaged recipe was found"
    assert {path.name: n for path in recipes() if (n := lines(path)) > 40} == {}


def test_no_drawer() -> None:
    named = [
        path
        for path in python_files()
        for part in path.relative_to(ROOT).with_suffix("").parts
        if DRAWERS & set(part.split("_"))
    ]
    assert named == []


@pytest.mark.parametrize(("path", "most"), [("engine/fit.py", 80), ("methods/kd.py", 500)])
def test_limits(path: str, most: int) -> None:
    assert limit(ROOT / PACKAGE / path) == most
