"""One module knows what lies in the directory of a run and how it is called."""

import ast
from pathlib import Path

import pytest

from raykd.store import run_directory
from tests.architecture.imports import PACKAGE, ROOT, module_name, sources

OWNER = ROOT / PACKAGE / "store" / "run_directory.py"
WORDS = "EXPERIMENT RECIPE ENVIRONMENT DATA STATUS METRICS ERRORS STUDENT STATISTICS IMAGE_STATISTICS BREAKDOWN PAGE"
NAMES = {getattr(run_directory, word) for word in WORDS.split()}
FOLDERS = {f"/{run_directory.CHECKPOINTS}", f"{run_directory.CHECKPOINTS}/", f"{run_directory.SAMPLES}/"}


def named(source: str) -> set[str]:
    """The names of a run's files in the strings of a source, docstrings and messages to a reader left out."""
    tree = ast.parse(source)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]
    return {name for name in NAMES | FOLDERS for text in strings if name in text and " " not in text}


@pytest.mark.parametrize("path", [path for path in sources() if path != OWNER], ids=module_name)
def test_no_other_module_names_its_files(path: Path) -> None:
    assert named(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("line", ["x / 'status.json'", "f'{run}/metrics.jsonl'", "run + '/checkpoints'"])
def test_a_name_is_found(line: str) -> None:
    assert named(line)
