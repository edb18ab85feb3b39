"""Pages in a browser: the script runs, nothing is asked for, and what somebody hostile has written stays text."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from raykd.reporting.pages import write
from tests.reporting.pages.made import HOSTILE, made_record, made_run, made_search

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium"),
]


class _Texts(HTMLParser):
    """Counts elements by name and class, and keeps what the document says at last."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def count(self, tag: str, of_class: str) -> int:
        return sum(name == tag and of_class in (found.get("class") or "").split() for name, found in self.seen)


def opened(page: Path) -> tuple[_Texts, str]:
    """The document as it stands once its script has run, and what the browser has logged."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    profile = [f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr"]
    done = subprocess.run([*command, *profile, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    texts = _Texts()
    texts.feed(done.stdout)
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Content Security Policy" in line]
    return texts, "\n".join(logged)


def test_the_page_of_a_run_works_and_complains_of_nothing(tmp_path: Path) -> None:
    run = made_run(tmp_path, names=(HOSTILE, "b", "c"), warnings=[HOSTILE], sheets=3)
    found, logged = opened(write.write_run(run))
    assert logged == ""
    assert found.count("div", "slider") == 1, "the script has made it"
    assert found.count("figure", "is-shown") == 1
    assert not any(name == "img" and "onerror" in attributes for name, attributes in found.seen)


def test_the_heads_of_a_searchs_table_sort(tmp_path: Path) -> None:
    found, logged = opened(write.write_search(made_search(tmp_path, made_record())))
    assert logged == ""
    heads = sum(name == "button" for name, _ in found.seen)
    assert heads == 8, "trial, state, objective, test, three fields, run"


def test_a_script_that_got_in_all_the_same_would_not_run(tmp_path: Path) -> None:
    page = write.write_run(made_run(tmp_path))
    hostile = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    page.write_text(page.read_text().replace("</main>", hostile + "</main>"))
    found, logged = opened(page)
    assert "Content Security Policy" in logged
    assert not any(attributes.get("content") == "taken" for _, attributes in found.seen)
