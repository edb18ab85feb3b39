"""What may stand in the repository: text that is tidy, small, and tied to no machine."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.imports import ROOT

LARGEST = 500_000  # bytes
# In pieces, so that this file does not contain what it looks for.
FOREIGN = re.compile(
    r"/(?:wo" + r"rk|fa" + r"rm|ro" + r"ot)/"
    r"|py" + r"pi\.org|python" + r"hosted|np" + r"mjs\.|deb\.deb" + r"ian",
    re.IGNORECASE,
)


def repository() -> list[Path]:
    """Files that are tracked or would be: all that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in files if path.is_file()]


def text(path: Path) -> str | None:
    """Content of a text file; None for a binary one."""
    content = path.read_bytes()
    return None if b"\0" in content else content.decode("utf-8")


def test_no_file_names_a_machine() -> None:
    found = {str(path.relative_to(ROOT)): hits for path in repository() if (hits := FOREIGN.findall(text(path) or ""))}
    assert found == {}


def test_no_file_is_large() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in repository()}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}


def test_text_ends_with_one_newline() -> None:
    untidy = [
        str(path.relative_to(ROOT))
        for path in repository()
        if (content := text(path)) and (not content.endswith("\n") or content.endswith("\n\n"))
    ]
    assert untidy == []


def test_the_frame_is_tracked() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in repository()}
    assert {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", ".ci/run"} <= names


@pytest.mark.parametrize(
    "line",
    ["data: /ro" + "ot/x", "see /wo" + "rk/y", "https://py" + "pi.org/simple", "np" + "mjs.com"],
)
def test_a_machine_is_recognised(line: str) -> None:
    assert FOREIGN.search(line)


@pytest.mark.parametrize("line", ["a framework/engine", "runs/rooted/", "raykd/data/", "/home/ray"])
def test_other_paths_are_left_alone(line: str) -> None:
    assert not FOREIGN.search(line)
