"""Lower layers do not know higher ones, and one folder alone knows Ray."""

from pathlib import Path

import pytest

from tests.architecture.imports import PACKAGE, ROOT, imported, module_name, sources, violations


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_only_what_stands_below(path: Path) -> None:
    assert violations(path) == []


def test_a_package_on_two_layers_has_an_empty_door() -> None:
    """Whoever imports ``raykd.cluster.config`` runs this file: it must not pull in the upper layer."""
    assert list(imported(ROOT / PACKAGE / "cluster" / "__init__.py")) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("engine/fit", "import ray", "only raykd.cluster and raykd.runners.ray may"),
        ("engine/fit", "from ray import train", "only raykd.cluster and raykd.runners.ray may"),
        ("engine/fit", "import ray.train as t", "only raykd.cluster and raykd.runners.ray may"),
        ("engine/fit", "importlib.import_module('ray.tune')", "only raykd.cluster and raykd.runners.ray may"),
        ("losses/kd", "from raykd import models", "stands above"),
        ("losses/kd", "import raykd.engine.fit", "stands above"),
        ("models/lenet", "from raykd.generators import dcgan", "stands beside"),
        ("spec", "from raykd.data import datasets", "stands above"),
        ("spec", "from . import datasets", "absolute"),
        ("engine/fit", "from raykd.toolbox import x", "no row"),
        ("toolbox", "import os", "no row"),
    ],
)
@pytest.mark.parametrize("inside_a_function", [False, True])
def test_a_wrong_import_is_found(
    tmp_path: Path, module: str, line: str, complaint: str, inside_a_function: bool
) -> None:
    for name in ("models/__init__", "generators/dcgan", "data/datasets", module):
        file = tmp_path / "raykd" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    file.write_text(f"def f():\n    {line}\n" if inside_a_function else f"{line}\n")
    (found,) = violations(file, tmp_path) or ["nothing"]
    assert complaint in found


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("runners/ray/driver", "import ray.train"),
        ("runners/train", "from raykd.engine.fit import fit"),
        ("engine/fit", "from raykd.engine.evaluator import evaluate"),
        ("data/datasets", "from raykd.spec import DataSpec"),
        ("data/streams", "import raylib"),
        ("losses/kd", "import torch"),
    ],
)
def test_a_right_import_is_left_alone(tmp_path: Path, module: str, line: str) -> None:
    file = tmp_path / "raykd" / f"{module}.py"
    file.parent.mkdir(parents=True)
    file.write_text(f"{line}\n")
    assert violations(file, tmp_path) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count too: such a circle only hides that two modules are one."""
    modules = frozenset(module_name(path) for path in sources()) - {PACKAGE}  # the door, which opens as it is used
    reached = {
        module_name(path): {name for _, name in imported(path, modules) if name in modules} for path in sources()
    }
    changed = True
    while changed:
        changed = False
        for targets in reached.values():
            more = {further for target in targets for further in reached[target]} - targets
            targets |= more
            changed = changed or bool(more)
    assert {name for name, targets in reached.items() if name in targets} == set()


def test_the_package_is_there_to_be_read() -> None:
    names = {module_name(path) for path in sources()}
    assert {"raykd", "raykd.errors", "raykd.engine.fit", "raykd.cli"} <= names, ROOT
