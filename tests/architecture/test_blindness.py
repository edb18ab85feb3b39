"""The loop, the data, the cluster and the command line know no method by name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.imports import PACKAGE, ROOT, sources

BLIND = (
    "distributed",
    "data",
    "store",
    "artifacts",
    "engine",
    "planning",
    "tasks",
    "search",
    "cluster",
    "runners",
    "cli",
)
# Names that are also words of prose ("each rank draws its own noise"): refused as identifiers and
# as strings, allowed in comments, docstrings and messages. All others are refused anywhere.
PROSE = frozenset({"supervised", "noise", "kd"})


def methods() -> list[str]:
    from raykd.methods import METHODS

    assert METHODS, "the table of methods is empty"
    return sorted(METHODS)


def blind_sources() -> list[Path]:
    return [path for name in BLIND for path in sources(ROOT / PACKAGE / name)]


def code_words(source: str) -> Iterator[tuple[int, str]]:
    """Line and lower-cased word: identifiers whole, strings without a space cut at punctuation."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if not re.search(r"\s", node.value):
                for word in re.split(r"[^a-z0-9]+", node.value.lower()):
                    yield line, word
                yield line, node.value.lower()
            continue
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield from ((line, word) for word in value.lower().split("."))


def named(source: str, keys: list[str]) -> list[str]:
    """Where a source names one of the methods ``keys``, as ``line: key``."""
    found = {(line, word) for line, word in code_words(source) if word in keys}
    for line, text in enumerate(source.lower().splitlines(), start=1):
        for key in set(keys) - PROSE:
            if re.search(rf"(?<![a-z0-9]){re.escape(key)}(?![a-z0-9])", text):
                found.add((line, key))
    return [f"{line}: {key}" for line, key in sorted(found)]


def test_no_method_is_named() -> None:
    keys = methods()
    found = {
        str(path.relative_to(ROOT)): lines
        for path in blind_sources()
        if (lines := named(path.read_text(encoding="utf-8"), keys))
    }
    assert found == {}


def test_every_blind_folder_is_read() -> None:
    seen = {path.relative_to(ROOT / PACKAGE).parts[0] for path in blind_sources()}
    assert seen == set(BLIND)


@pytest.mark.parametrize(
    "source",
    [
        "if method == 'dafl': pass",
        "run('dafl_digits')",
        "dafl_steps = 3",
        "# only for dafl",
        "'''Runs dafl.'''",
        "if name == 'kd': pass",
        "from raykd.methods import kd",
        "from raykd.methods.kd import KD",
        "x = KD()",
        "method.noise",
        "f(noise=1)",
        "TABLE = {'method.supervised': 1}",
    ],
)
def test_a_name_is_found(source: str) -> None:
    assert named(source, ["dafl", "kd", "noise", "supervised"])


@pytest.mark.parametrize(
    "source",
    [
        "from raykd.recipe import Recipe",
        "'''Each rank draws its own noise.'''",
        "raise ValueError('the supervised run is missing')",
        "kl = agreement = kd_divergence",
        "prog = 'raykd'",
        "unsupervised = 1",
    ],
)
def test_other_words_are_left_alone(source: str) -> None:
    assert named(source, ["dafl", "kd", "noise", "supervised"]) == []
