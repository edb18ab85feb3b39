"""The page of a store: its runs, searches and tables, with links to their own pages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from raykd.reporting.pages.comparison_page import runs_table
from raykd.reporting.pages.facts import RunFacts
from raykd.reporting.pages.page import render
from raykd.reporting.pages.parts import Cell, Head, Row, Table, link_to


def store_page(
    name: str, runs: Sequence[RunFacts], damaged: Mapping[str, str], others: Mapping[str, Sequence[Path]], start: Path
) -> str:
    """Return the page of a store, which is to lie in the folder ``start``.

    Args:
        name: how the store is called.
        runs: those that can be read.
        damaged: why others cannot, by their ids.
        others: pages of searches and of tables, by kind.
        start: that folder.
    """
    tables = {
        kind: Table(
            [Head("folder", False)],
            [Row([Cell(page.parent.name, link=link_to(page, start))]) for page in pages],
            "compact",
        )
        for kind, pages in others.items()
        if pages
    }
    return render("store", title=name, runs=runs_table(runs, start), damaged=damaged, others=tables, count=len(runs))
