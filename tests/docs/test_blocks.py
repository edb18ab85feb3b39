"""What README and the pages tell a reader to type works as it stands there, or it is said why nobody tried."""

import sys
from pathlib import Path

import pytest
import torch

from tests.architecture.imports import ROOT
from tests.docs.blocks import PAGES, RUN, Block, blocks, pages_with, run_page


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def bare_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, no data root, and a process whose arithmetic stays as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYKD_DATA", raising=False)
    monkeypatch.setattr("raykd.runners.local.prepare_host", lambda threads=None: None)
    torch.set_num_threads(1)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_of_commands_says_when_it_is_run_or_why_not(page: Path) -> None:
    assert [block.text for block in blocks(page) if block.language in RUN and not block.when] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_stand_in_blocks_that_are_known_as_such(page: Path) -> None:
    unknown = [block.text for block in blocks(page) if block.language not in {*RUN, "yaml", "toml", "text"}]
    assert unknown == []


@pytest.mark.parametrize("page", pages_with("gate"), ids=_name)
def test_commands_of_a_page_run(page: Path) -> None:
    run_page(page, short=True)


@pytest.mark.endurance
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", pages_with("gate", "endurance"), ids=_name)
def test_commands_of_a_page_run_as_they_are_typed(page: Path) -> None:
    run_page(page, short=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<!-- runs: gate -->\n```sh\nraykd doctor\n```\n", ("gate", ())),
        ("<!-- runs: gate with seed=1 'a={b: 1}' -->\n```sh\nraykd doctor\n```\n", ("gate", ("seed=1", "a={b: 1}"))),
        ("<!-- runs: not: needs a\ncluster -->\n```sh\nraykd doctor\n```\n", ("not", ())),
        ("<!-- runs: not -->\n```sh\nraykd doctor\n```\n", ("", ())),
        ("<!-- runs: gate -->\nwords\n```sh\nraykd doctor\n```\n", ("", ())),
        ("```sh\nraykd doctor\n```\n", ("", ())),
    ],
)
def test_a_mark_is_read(tmp_path: Path, text: str, expected: tuple[str, tuple[str, ...]]) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert list(blocks(page)) == [Block("sh", "raykd doctor\n", *expected)]


@pytest.mark.parametrize("line", ["raykd list nothing", "raykd train no_such_recipe", f"'{sys.executable}' -c 1/0"])
def test_a_command_that_fails_is_told(tmp_path: Path, line: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- runs: gate -->\n```sh\n{line}\n```\n")
    with pytest.raises(AssertionError, match="list|train|Zero"):
        run_page(page, short=True)


def test_files_that_a_page_shows_are_there_and_what_a_gate_adds_goes_to_trainings_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    file = "# mine.yaml, a file\nextends: supervised_digits_lenet5\n"
    commands = "raykd show recipe mine.yaml\nraykd train mine.yaml  # seconds\nraykd evaluate runs/RUN\n"
    budget = "schedule.steps=2 schedule.report_every=2"
    page.write_text(f"```yaml\n{file}```\n<!-- runs: gate with {budget} -->\n```sh\n{commands}```\n")
    run_page(page, short=True)
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("mine-")
