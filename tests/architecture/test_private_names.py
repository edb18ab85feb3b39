"""Ray's private names, which any release may change, stand in one file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.imports import PACKAGE, ROOT, module_name, sources

ALLOWED = ROOT / PACKAGE / "runners" / "ray" / "internals.py"
PRIVATE = re.compile(r"_(?!_)\w*")
IN_TEXT = re.compile(r"\bray(\.\w+)*\._\w|__internal")


def private_names(source: str) -> list[str]:
    """Where a source imports, reads, passes, overrides or spells a private name of Ray, as ``line: name``."""
    tree = ast.parse(source)
    of_ray = set(names_of_ray(tree))
    found = [(line, name) for node in ast.walk(tree) for line, name in named(node, of_ray)]
    return [f"{line}: {name}" for line, name in sorted(set(found))]


def names_of_ray(tree: ast.AST) -> Iterator[str]:
    """The names by which a file knows Ray's modules and what is in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.asname or "ray" for alias in node.names if is_ray(alias.name))
        elif isinstance(node, ast.ImportFrom) and is_ray(node.module or ""):
            yield from (alias.asname or alias.name for alias in node.names)


def is_ray(module: str) -> bool:
    return module.split(".")[0] == "ray"


def named(node: ast.AST, of_ray: set[str]) -> Iterator[tuple[int, str]]:
    """The private names of Ray in one node."""
    if isinstance(node, ast.ImportFrom) and is_ray(node.module or ""):
        paths = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from ((node.lineno, path) for path in paths if is_private(path))
    elif isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names if is_ray(alias.name) and is_private(alias.name))
    elif isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr) and root(node) in of_ray:
        yield node.lineno, node.attr
    elif isinstance(node, ast.Call) and root(node.func) in of_ray:
        yield from ((node.lineno, word.arg) for word in node.keywords if word.arg and PRIVATE.fullmatch(word.arg))
    elif isinstance(node, ast.ClassDef) and any(root(base) in of_ray for base in node.bases):
        yield from (
            (inner.lineno, inner.attr)
            for inner in ast.walk(node)
            if isinstance(inner, ast.Attribute) and PRIVATE.fullmatch(inner.attr) and root(inner) == "super"
        )
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and IN_TEXT.search(node.value):
        yield node.lineno, node.value


def is_private(path: str) -> bool:
    return any(PRIVATE.fullmatch(part) for part in path.split("."))


def root(node: ast.AST) -> str | None:
    """The name that a chain of attributes and calls begins with."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


@pytest.mark.parametrize("path", [path for path in sources() if path != ALLOWED], ids=module_name)
def test_no_other_file_uses_a_private_name_of_ray(path: Path) -> None:
    assert private_names(path.read_text(encoding="utf-8")) == []


def test_the_file_that_may_is_read() -> None:
    found = {line.partition(": ")[2] for line in private_names(ALLOWED.read_text(encoding="utf-8"))}
    assert {"node:__internal_head__", "_count_possible_workers", "_initialize_and_run_controller"} <= found


@pytest.mark.parametrize(
    "source",
    [
        "import ray._private.worker",
        "from ray._common import constants",
        "from ray.train.v2._internal.util import x",
        "from ray.train import _checkpoint",
        "import ray\nray._raylet",
        "import ray\nray.get_runtime_context()._worker",
        "import ray as r\nr.init(_temp_dir='x')",
        "import ray.train\nray.train._x()",
        "from ray import tune\ntune.Tuner(_tuner_kwargs={})",
        "def f():\n    from ray.tune import Tuner\n    Tuner()._local_tuner",
        "from ray.tune import Callback\nclass A(Callback):\n    def f(self):\n        super()._f()",
        "logging.getLogger('ray._private.worker')",
        "HEAD = 'node:__internal_head__'",
    ],
)
def test_a_private_name_is_found(source: str) -> None:
    assert private_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "import ray\nray.init(num_cpus=1)",
        "from ray.tune import Callback\nclass A(Callback):\n    def f(self):\n        super().f()\n        self._f()",
        "from ray import tune as _tune",
        "import raylib\nraylib._x",
        "import torch\ntorch._dynamo.reset()",
    ],
)
def test_other_names_are_left_alone(source: str) -> None:
    assert private_names(source) == []
