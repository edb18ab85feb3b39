"""A page is one file that loads nothing, runs its own script alone, and shows text from outside as text."""

import base64
import hashlib
import re

import pytest

from raykd.reporting.pages.page import format_time, render
from tests.reporting.pages.made import HOSTILE, parsed


def store_page(title: str) -> str:
    from raykd.reporting.pages.parts import Table

    return render("store", title=title, runs=Table([], []), damaged={"x": title}, others={}, count=0)


def test_the_policy_lets_the_own_script_run_and_nothing_load() -> None:
    root = parsed(store_page("runs"))
    (policy,) = [one.attributes["content"] for one in root.all("meta") if "http-equiv" in one.attributes]
    digest = base64.b64encode(hashlib.sha256(root.one("script").text.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["img-src"], rules["base-uri"]) == ("'none'", "data:", "'none'")
    assert "unsafe-eval" not in policy


def test_the_script_makes_no_markup_of_what_it_is_told() -> None:
    script = parsed(store_page("runs")).one("script").text.replace("http://www.w3.org/2000/svg", "")
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|fetch\(|XMLHttp|http"
    assert not re.search(forbidden, script)


@pytest.mark.parametrize("title", [HOSTILE, "]]>", "<!--", "{{ 7 * 7 }}", "a\x00b"])
def test_text_from_outside_stays_text(title: str) -> None:
    root = parsed(store_page(title))
    shown = title.replace("\x1b", "\\x1b").replace("\x00", "\\x00")
    assert root.one("h1").text == root.one("title").text == shown
    assert root.one("section", "warnings").one("li").text == f"x: {shown}"
    assert root.all("img") == []


def test_light_dark_phone_and_paper_have_rules() -> None:
    style = parsed(store_page("runs")).one("style").text
    for rule in ("(prefers-color-scheme: dark)", "@media print", "max-width: 760px"):
        assert rule in style


def test_a_moment_is_written_in_universal_time() -> None:
    assert format_time(0) == "1970-01-01 00:00 UTC"
