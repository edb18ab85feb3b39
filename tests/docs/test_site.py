"""The site is built without a network and without a warning, loads nothing, and has a page for all that there is."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from raykd.cli.app import app
from raykd.engine import sentinel, teacher_check
from raykd.errors import RaykdError, unknown
from raykd.methods import METHODS
from tests.architecture.imports import ROOT, sources

# Of a page, and of what it asks for: a link is followed by the reader alone.
_LOADS = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(\S+?)[\"'\s>]|<link\b[^>]*\bhref=[\"']?(\S+?)[\"'\s>]"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    logger = logging.getLogger("mkdocs")
    level = logger.level
    build(config)  # which raises for any warning
    logger.setLevel(level)
    yield folder


def _pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = _pages(site)
    assert len(pages) > 60
    loaded = {one or other for page in pages for one, other in _LOADS.findall(page.read_text())}
    assert [target for target in loaded if re.match(r"https?:|//", target)] == []
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert not any(re.search(r"url\([\"']?(?:https?:)?//", style) for style in styles)


def test_there_is_a_page_for_each_command_and_file_and_the_search_knows_them(site: Path) -> None:
    reference = site / "reference"
    assert {path.stem for path in (reference / "commands").glob("*.html")} == set(app.commands)
    assert {path.stem for path in reference.glob("*.html")} == {"recipe", "cluster", "search_space", "table"}
    assert "--precision" in (reference / "commands" / "train.html").read_text()
    assert "global_batch" in (reference / "recipe.html").read_text()
    assert "loguniform" in (reference / "search_space.html").read_text()
    assert "published_sd" in (reference / "table.html").read_text()
    assert "hang_seconds" in (site / "search" / "search_index.json").read_text()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_page_with_what_the_code_says(site: Path, name: str) -> None:
    page = (site / "methods" / f"{name}.html").read_text()
    for part in ("Equations", "Switches", "Recipes", "Measured", "When to use it", "Paper"):
        assert re.search(rf"<h2 id=\S+>{part}<", page), part
    assert all(f"method.{field}" in page for field in METHODS[name].config.model_fields if field != "name")
    assert "<!-- method" not in page


def test_every_page_is_in_the_navigation(site: Path) -> None:
    front = (site / "index.html").read_text()
    assert [
        page for page in _pages(site) if page.relative_to(site).as_posix() not in front and page.stem != "404"
    ] == []


def test_faults_has_every_exit_code_and_every_warning() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    codes = {error.exit_code for error in _with_subclasses(RaykdError)}
    assert [code for code in codes if f"| {code} |" not in page] == []
    source = "".join(Path(str(module.__file__)).read_text() for module in (sentinel, teacher_check))
    kinds = set(re.findall(r"f\"(?!step)([a-z]+): ", source)) | {sentinel.STRAGGLER, teacher_check.TEACHER}
    assert len(kinds) >= 8
    assert [kind for kind in kinds if f"| `{kind}` |" not in page] == []


def test_common_errors_are_messages_that_there_are() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    table = page[page.index("## Common errors") : page.index("## Warnings")]
    told = [words for row in re.findall(r"^\| (`.*?) \|", table, re.M) for words in re.findall(r"`(.+?)`", row)]
    source = "".join(path.read_text() for path in sources()) + str(unknown("recipe", "x", []))
    assert len(told) >= 9
    assert [words for words in told if words not in source] == []


def _with_subclasses(error: type[RaykdError]) -> Iterator[type[RaykdError]]:
    yield error
    for child in error.__subclasses__():
        yield from _with_subclasses(child)
