"""The page of a session of `raykd distill`: its student, what was tried, how that was judged, all curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.reporting.pages.comparison_page import runs_table
from raykd.reporting.pages.curves import curve_groups
from raykd.reporting.pages.facts import RunFacts
from raykd.reporting.pages.page import render
from raykd.reporting.pages.parts import Cell, Head, Row, Table, link_to, numbers
from raykd.results import DistillResult, RoundResult


@dataclass(frozen=True)
class _Round:
    """A round for the page: its agreements by student and by whose images."""

    title: str
    table: Table
    notes: Sequence[str]


def session_page(result: DistillResult, runs: Sequence[RunFacts], start: Path) -> str:
    """Return the page of a session, which is to lie in the folder ``start``; ``runs`` are those of its candidates."""
    pages = {one.run.name: link_to(one.run.page, start) for one in runs}
    names = {one.run: one.name for one in result.candidates}
    curves = {names.get(one.run.name, one.run.name): [one.rows] for one in runs}
    return render(
        "session",
        title=result.session,
        student=_student(result, pages.get(result.run)),
        warnings=[*result.warnings, *([f"low confidence: {result.doubt}"] if result.doubt else [])],
        candidates=_candidates(result, pages),
        rounds=[_round(one) for one in result.rounds if one.verdict is not None],
        groups=curve_groups(curves, {}),
        runs=runs_table(runs, start),
    )


def _student(result: DistillResult, link: str | None) -> Table:
    figures = result.figures
    judges = "its own held-out images, by the judge" if result.judged_on_own else "the others' images"
    share = 100 * result.search_seconds / result.seconds if result.seconds else 0.0
    lines = [
        ("run", result.run, link),
        ("chosen", result.chosen, None),
        (
            "student",
            f"{result.student}, {result.student_parameters:,} of {result.teacher_parameters:,} parameters",
            None,
        ),
        (f"agreement on {judges}", _percent(result.judged_agreement), None),
        ("agreement on its own held-out images", _percent(figures.synthetic_agreement), None),
        ("agreement on the test split", _percent(figures.agreement), None),
        ("top-1 on the test split", _percent(figures.top1), None),
        ("seconds", f"{result.seconds:,.0f}, {share:.0f} % of them for the search", None),
    ]
    rows = [Row([Cell(name), Cell(text, link=target)]) for name, text, target in lines if text]
    return Table([Head("", False), Head("", False)], rows, kind="compact")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def _candidates(result: DistillResult, pages: dict[str, str | None]) -> Table:
    heads = [Head("candidate", False), Head("what it learns from", False), Head("state", False), Head("agreement %"),
             Head("step"), Head("of"), Head("s a step"), Head("why it is out", False)]  # fmt: skip
    rows = [
        Row(
            [
                Cell(one.name + (" (control)" if one.control else ""), link=pages.get(one.run)),
                Cell(one.why),
                Cell(one.state),
                *numbers([one.agreement]),
                *numbers([one.step, one.steps], 0),
                *numbers([one.seconds_per_step], 3),
                Cell(one.reason or ""),
            ],
            one.state == "chosen",
        )
        for one in result.candidates
    ]
    return Table(heads, rows, kind="sortable").filled()


def _round(found: RoundResult) -> _Round:
    verdict = found.verdict
    assert verdict is not None, "asked of rounds that were judged"
    sources = sorted({source for row in verdict.scores.values() for source in row})
    heads = [
        Head("student", False),
        Head("in all %"),
        *(Head(f"on {name}'s images %") for name in sources),
        Head("KL nats"),
    ]
    rows = [
        Row(
            [
                Cell(name),
                *numbers([verdict.agreement[name]]),
                *numbers([verdict.scores.get(name, {}).get(source) for source in sources]),
                *numbers([verdict.kl.get(name)], 3),
            ]
        )
        for name in verdict.order
    ]
    notes = [*verdict.notes, *([f"low confidence: {verdict.doubt}"] if verdict.doubt else [])]
    return _Round(found.title, Table(heads, rows, kind="sortable"), notes)
