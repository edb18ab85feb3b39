"""The notebooks in examples/: stored as they were executed, tied to no machine, and still running."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.architecture.imports import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LARGEST = 100_000  # bytes of a notebook, pictures among them
_PATH = re.compile(r"(?<![\w.])/(?:home|tmp|usr|opt|var|root|mnt|Users)/")


def cells(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def said(book: Any) -> str:
    """All text that the cells have printed or returned."""
    outputs = [output for cell in cells(book) for output in cell.outputs]
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_it_was_executed(path: Path) -> None:
    book = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
    nbformat.validate(book)
    assert [cell.execution_count for cell in cells(book)] == list(range(1, len(cells(book)) + 1))
    kinds = {output.get("name", output.output_type) for cell in cells(book) for output in cell.outputs}
    assert kinds <= {"stdout", "display_data", "execute_result"}, "neither errors nor warnings"
    assert path.stat().st_size < LARGEST
    assert not _PATH.search(said(book))
    assert set(book.metadata) == {"kernelspec", "language_info"}, "of no machine"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client", "ignore::DeprecationWarning:zmq")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_the_same_end(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it works
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
    stored = said(book).splitlines()
    client = NotebookClient(book, timeout=540, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    found = said(book).splitlines()
    assert len(found) == len(stored)
    student = re.search(r"student ([\d.]+) %", said(book))
    assert student is not None
    assert float(student[1]) > 80
    assert "opened: {'train': []" in said(book), "it has seen no image to train on"
    answers, labels = found[-2].split("[")[1], found[-1].split("[")[1]
    right = sum(one == other for one, other in zip(answers.split(","), labels.split(","), strict=True))
    assert right >= 6, "of eight, by the exported file"
    assert not list(tmp_path.parent.glob("runs"))
