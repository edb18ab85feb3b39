"""What README and docs say can be typed and followed: links lead somewhere, commands and options exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from raykd.cli.app import app
from raykd.recipe.recipe import load_recipe
from tests.architecture.imports import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
README_LINES = 120
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )?raykd [^`]+)`")


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each `raykd` command in the page's shell blocks, and in its text, be it but a verb."""
    text = page.read_text()
    blocks = [block for language, block in _BLOCK.findall(text) if language == "sh"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(line.split()) for line in _INLINE.findall(_BLOCK.sub("", text))]
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if words and Path(words[0]).name == "raykd" and words[1:]:
            yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    missing = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        command: click.Command = app
        context = click.Context(app, info_name="raykd")
        while isinstance(command, click.Group):
            name, found, words = command.resolve_command(context, words)
            assert found is not None, f"{page.name}: raykd {name}"
            context, command = click.Context(found, context, info_name=name), found
        # Words after `--` are another command's, as of `raykd submit`; of a mere verb nothing is asked.
        if words:
            command.make_parser(context).parse_args([word for word in words if word != "..."])


def test_pages_have_commands_to_test() -> None:
    silent = [page.name for page in PAGES if "raykd " in page.read_text() and not list(commands(page))]
    assert set(silent) <= {"python.md", "gpu.md", "CONTRIBUTING.md"}, "of Python and make"


def test_every_page_is_reached_from_the_readme() -> None:
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        seen.add(page)
        links = {(page.parent / link).resolve() for link in _LINK.findall(page.read_text())}
        left += [link for link in links - seen if link.suffix == ".md" and link.is_file()]
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in seen] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_recipes_that_commands_train_are_packaged_with_their_fields(page: Path) -> None:
    for words in commands(page):
        named = words[1:2] if words[0] == "train" else []
        if named and not named[0].startswith("-") and not re.search(r"[/*]|\.yaml$|^[A-Z_]+$", named[0]):
            load_recipe(words[1], [word for word in words[2:] if re.match(r"[a-z_.]+=", word)])


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
