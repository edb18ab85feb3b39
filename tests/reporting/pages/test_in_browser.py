"""Pages in Chromium: nothing is asked for, nothing is cut or overlaps, all can be read, and what moves does."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from raykd.reporting.pages import write
from tests.browser import BROWSER, Tab, opened_browser
from tests.reporting.pages.made import HOSTILE, made_record, made_run, made_search, made_table

pytestmark = [
    pytest.mark.endurance,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium"),
]
PHONE, DESK, PAPER = 390, 1400, 718
"""Widths in pixels; the last is that of A4 within its margins."""
RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 " * 8
NAMES = ("</style><script>alert(1)</script>\"'", RIGHT_TO_LEFT, "L" * 300 + "\U0001f600")
KINDS = ("run", "unfinished", "comparison", "search", "front", "table", "store")

OVERFLOW = """[...document.querySelectorAll("body *")].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width && !one.closest(".scroll, .strip, .wide, pre, #tip") && (box.right > WIDTH + 1 || box.left < -1);
}).map((one) => `${one.tagName}.${one.getAttribute("class")}: ${one.textContent.trim().slice(0, 40)}`)"""
OVERLAPS = """[...document.querySelectorAll(".plot svg")].flatMap((svg) => {
  const texts = [...svg.querySelectorAll("text")].map((one) => [one.textContent, one.getBoundingClientRect()]);
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4; // lines of text are higher than their letters
  return texts.flatMap(([one, a], index) => texts.slice(index + 1).filter(([, b]) => a.width && b.width && meet(a, b))
    .map(([other]) => `${svg.getAttribute("aria-label")}: "${one}" on "${other}"`));
})"""
FAINT = """(() => {
  const parts = (colour) => {
    const found = colour.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    return colour.startsWith("color(") ? [...found.slice(0, 3).map((one) => one * 255), found[3] ?? 1] : found;
  };
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((one) => one / 255).map((one) => one <= 0.04045 ? one / 12.92
      : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0.99) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.getBoundingClientRect().width || one.closest(".zero, script, [hidden]")) continue;
    const style = getComputedStyle(one), colour = one instanceof SVGElement ? style.fill : style.color;
    const [high, low] = [light(colour), light(behind(one))].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) faint.push(`${one.textContent.trim().slice(0, 30)}: ${colour}, ${ratio.toFixed(2)}`);
  }
  return faint;
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with opened_browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of all kinds, of names that somebody hostile has chosen."""
    store = tmp_path_factory.mktemp("runs")
    short = ("schedule.steps=20", "schedule.report_every=4", "controls=[]")
    run = made_run(store, names=NAMES, warnings=[HOSTILE, "W" * 300, RIGHT_TO_LEFT], sheets=3)
    runs = [run, *(made_run(store, overrides=(*short, f"seed={seed}"), top1=80.0 + seed) for seed in range(3))]
    unfinished = made_run(store, "kd_digits", finished=False)
    front = store / "front"
    return {
        "run": write.write_run(run),
        "unfinished": write.write_run(unfinished),
        "comparison": write.write_comparison(runs, store / "comparison.html"),
        "search": write.write_search(made_search(store, made_record(30))),
        "front": write.write_search(made_search(front, made_record(30, "accuracy", "latency"), "accuracy", "latency")),
        "table": write.write_table(made_table(store)),
        "store": write.write_store(store),
    }


def open_all(tab: Tab) -> None:
    """Unfold what the page has folded."""
    tab.ask('document.querySelectorAll("details").forEach((one) => { one.open = true; })')


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_fits_can_be_read_and_asks_for_nothing(
    tab: Tab, pages: dict[str, Path], kind: str, width: int, scheme: str
) -> None:
    tab.open(pages[kind], width, scheme=scheme)
    open_all(tab)
    assert tab.ask(OVERFLOW.replace("WIDTH", str(width))) == []
    assert tab.ask("document.scrollingElement.scrollWidth") <= width
    assert tab.ask(OVERLAPS) == []
    assert tab.ask(FAINT) == []
    assert [one for one in tab.requests if not one.startswith("data:")] == [pages[kind].as_uri()]
    assert tab.messages == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_fits_on_paper_whatever_the_screen_was(tab: Tab, pages: dict[str, Path], kind: str) -> None:
    tab.open(pages[kind], PAPER, scheme="dark", medium="print")
    open_all(tab)
    assert tab.ask("document.scrollingElement.scrollWidth") <= PAPER
    assert tab.ask(FAINT) == []
    assert tab.print_pdf().startswith(b"%PDF")


def test_the_slider_turns_the_samples(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"], PHONE)
    shown = 'document.querySelector(".strip .is-shown").dataset.name'
    told = 'document.querySelector(".slider output").textContent'
    assert (tab.ask(shown), tab.ask(told)) == ("step 12", "step 12"), "the last ones first"
    tab.ask('document.querySelector(".slider input").focus()')
    tab.press("ArrowLeft")
    assert (tab.ask(shown), tab.ask(told)) == ("step 8", "step 8")
    boxes = (
        '[...document.querySelectorAll(".strip img")].filter((one) => one.getBoundingClientRect().height > 0).length'
    )
    assert tab.ask(boxes) == 1


def test_the_heads_of_a_table_sort_by_what_the_cells_are_worth(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["search"])
    column = tab.ask(
        '[...document.querySelectorAll(".sortable th")].findIndex((one) => one.textContent === "accuracy %")'
    )
    cells = f'[...document.querySelectorAll(".sortable tbody tr")].map((row) => Number(row.cells[{column}].dataset.v))'
    before = tab.ask(cells)
    for is_rising in (True, False):
        tab.click_on(f".sortable th:nth-child({column + 1}) button")
        found = tab.ask(cells)
        assert found == sorted(before, reverse=not is_rising) != before


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("kind", ["run", "search"])
def test_a_pointer_over_a_chart_is_told_figures(tab: Tab, pages: dict[str, Path], kind: str, width: int) -> None:
    tab.open(pages[kind], width)
    x, y, right, bottom = tab.box_of(".plot svg")
    seen = set()
    for part in (0.25, 0.5, 0.75, 0.96):
        for height in (0.2, 0.35, 0.5, 0.65, 0.8):
            tab.point_at(x + part * (right - x), y + height * (bottom - y))
            if not tab.ask('document.getElementById("tip").hidden'):
                left, _, end, _ = tab.box_of("#tip", scroll=False)
                assert left >= 0 and end <= width
                seen.add(tab.ask('document.getElementById("tip").textContent'))
    assert len(seen) > 1
    expected = "trial " if kind == "search" else "step "
    assert all(text.startswith(expected) and any(map(str.isdigit, text)) for text in seen)
    tab.press("Escape")
    tab.point_at(1, 1)
    assert tab.ask('document.getElementById("tip").hidden')


def test_the_keys_walk_along_a_chart(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    tab.ask('document.querySelector(".plot").focus()')
    texts = []
    for _ in range(3):
        tab.press("ArrowRight")
        texts.append(tab.ask('document.querySelector("#tip b").textContent'))
    assert texts == ["step 4", "step 8", "step 12"]


def test_a_script_that_got_in_all_the_same_would_not_run(tab: Tab, tmp_path: Path) -> None:
    page = write.write_run(made_run(tmp_path))
    hostile = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    page.write_text(page.read_text().replace("</main>", hostile + "</main>"))
    tab.open(page)
    assert any("Content Security Policy" in one for one in tab.messages)
    assert tab.ask("document.title") == "dafl_digits"


def test_sections_stand_in_the_order_of_what_is_asked_first(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"], PHONE)
    tops = [
        tab.box_of(one, scroll=False)[1] for one in (".big", ".ladder", ".warnings", ".charts", ".strip", ".classes")
    ]
    assert all(above < below for above, below in pairwise(tops))
    assert tops[0] < 300, "the headline is seen without scrolling"
