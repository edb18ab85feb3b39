"""The blocks of commands and of Python in README and the pages, and how they are run.

A line before each says so: ``<!-- runs: gate -->``, ``<!-- runs: endurance -->`` or ``<!-- runs: not: why -->``. What
follows ``gate with`` is added to each `raykd train`, so that the gate trains for seconds; ``make endurance`` runs every
block of a page as it is typed. The blocks of a page run in its order, in one folder, empty at first but for the YAML
blocks that open with ``# NAME.yaml``. ``RUN`` stands for the run trained last.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from raykd.cli.app import app
from tests.architecture.imports import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
RUN = ("sh", "python")
_BLOCK = re.compile(r"(?:^<!-- runs: (?P<mark>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
_MARK = re.compile(r"(?P<when>gate|endurance)(?: with (?P<added>\S.*))?|not: (?P<reason>\S.*)", re.S)
_FILE = re.compile(r"# ([\w.]+\.yaml)\b")
_TRAINED = re.compile(r"^directory +runs/(\S+)$", re.M)


@dataclass(frozen=True)
class Block:
    """A block of a page; ``when`` is gate, endurance, not, or empty where nothing is said before it."""

    language: str
    text: str
    when: str
    added: tuple[str, ...]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page, of all languages."""
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        mark = _MARK.fullmatch(found["mark"] or "")
        when = (mark["when"] or "not") if mark else ""
        yield Block(found["language"], found["text"], when, tuple(shlex.split(mark["added"] or "")) if mark else ())


def pages_with(*when: str) -> list[Path]:
    """Return the pages that have a block to be run then."""
    return [page for page in PAGES if any(block.language in RUN and block.when in when for block in blocks(page))]


def write_files(page: Path) -> None:
    """Write the files that a page shows into the current folder."""
    for block in blocks(page):
        if block.language == "yaml" and (named := _FILE.match(block.text)):
            Path(named[1]).write_text(block.text, encoding="utf-8")


def run_page(page: Path, *, short: bool) -> None:
    """Run a page's blocks in the current folder; ``short``: those of the gate only, with what they add."""
    write_files(page)
    run = "RUN"
    for block in blocks(page):
        if block.when not in (("gate",) if short else ("gate", "endurance")):
            continue
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), {"__name__": "__main__"})
        elif block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                words = [re.sub(r"\bRUN\b", run, word) for word in shlex.split(line, comments=True)]
                said = (_said_in_here(words, block.added) if short else _said_by(words)) if words else ""
                run = found[1] if (found := _TRAINED.search(said)) else run


def _said_in_here(words: list[str], added: tuple[str, ...]) -> str:
    """Run a command and return what it says; raykd's in this process, which has imported what they need."""
    if words[0] != "raykd":
        return _said_by(words)
    done = CliRunner().invoke(app, [*words[1:], *(added if words[1] == "train" else ())], prog_name="raykd")
    return _without_error(words, done.exit_code, done.output)


def _said_by(words: list[str]) -> str:
    """Run a command as a shell does, and return what it says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(words[0], path=path) or words[0]
    ended = subprocess.run([found, *words[1:]], env={**os.environ, "PATH": path}, capture_output=True, text=True)
    return _without_error(words, ended.returncode, ended.stdout + ended.stderr)


def _without_error(words: list[str], code: int, said: str) -> str:
    assert code == 0, f"{shlex.join(words)}\n{said}"
    return said
