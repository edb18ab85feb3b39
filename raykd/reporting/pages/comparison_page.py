"""The page of several runs beside each other; seeds of one recipe are one of them, a mean inside a band."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from raykd.reporting.pages.curves import curve_groups
from raykd.reporting.pages.facts import RunFacts, recipe_differences
from raykd.reporting.pages.page import format_time, render
from raykd.reporting.pages.parts import Cell, Head, Mark, Row, Table, link_to, make_scale, numbers
from raykd.reporting.pages.svg import SERIES
from raykd.results import Figures

_FIGURES = {"top1": "top-1 %", "top5": "top-5 %", "agreement": "agreement %", "kl": "KL nats", "ece": "ECE %",
            "synthetic_agreement": "synthetic agreement %"}  # fmt: skip
_SYNTHETIC = "synthetic_agreement"
_COSTS = {"images": "images", "seconds": "seconds", "teacher_forwards": "compute"}
_MOST_DIFFERENCES = 60


def comparison_page(runs: Sequence[RunFacts], start: Path) -> str:
    """Return the page of runs, which is to lie in the folder ``start``."""
    groups = _groups(runs)
    colours = [f"--series-{index % len(SERIES) + 1}" for index in range(len(groups))]
    marks = [_mark(name, seeds, colour) for (name, seeds), colour in zip(groups.items(), colours, strict=True)]
    return render(
        "comparison",
        title=" · ".join(groups) if len(groups) <= 3 else f"{len(groups)} recipes",
        count=len(runs),
        scale=make_scale([mark for mark in marks if mark is not None]),
        summary=_summary(groups),
        groups=curve_groups({name: [one.rows for one in seeds] for name, seeds in groups.items()}, {}),
        differences=_differences(groups),
        runs=runs_table(runs, start),
        warnings=[f"{one.run.name}: {text}" for one in runs for text in _warnings(one)],
    )


def _warnings(facts: RunFacts) -> list[str]:
    return [*facts.lost, *((facts.result.warnings if facts.result is not None else None) or ())]


def _groups(runs: Sequence[RunFacts]) -> dict[str, list[RunFacts]]:
    """Return runs by recipe: by its name where that tells it from the others, else by the id without the seed."""
    stems: dict[str, list[RunFacts]] = {}
    for one in runs:
        stems.setdefault(one.stem or one.run.name, []).append(one)
    names = [seeds[0].recipe.name for seeds in stems.values()]
    return {
        name if names.count(name) == 1 else stem: seeds
        for name, (stem, seeds) in zip(names, stems.items(), strict=True)
    }


def _known(seeds: Sequence[RunFacts], name: str) -> list[float]:
    found = [getattr(one.student, name) for one in seeds if not (name == _SYNTHETIC and one.not_judged)]
    return [float(figure) for figure in found if figure is not None]


def _mark(name: str, seeds: Sequence[RunFacts], colour: str) -> Mark | None:
    found = _known(seeds, "top1")
    if not found:
        return None
    low, high = (min(found), max(found)) if len(found) > 1 else (None, None)
    return Mark(name, fmean(found), colour, low, high, value=_spread(found, 2))


def _spread(found: Sequence[float], digits: int) -> str:
    if not found:
        return ""
    mean = f"{fmean(found):,.{digits}f}"
    return f"{mean} ± {stdev(found):,.{digits}f}" if len(found) > 1 else mean


def _summary(groups: Mapping[str, Sequence[RunFacts]]) -> Table:
    rows = []
    for name, seeds in groups.items():
        cells = [Cell(name), Cell(str(len(seeds)), len(seeds))]
        for figure in _FIGURES:
            found = _known(seeds, figure)
            cells.append(Cell(_spread(found, 3 if figure == "kl" else 2), fmean(found) if found else None))
        for cost in _COSTS:
            costs = [getattr(one.result, cost) for one in seeds if one.result is not None]
            known = [float(value) for value in costs if value is not None]
            cells.append(Cell(f"{fmean(known):,.0f}" if known else "", fmean(known) if known else None))
        rows.append(Row(cells))
    names = [*_FIGURES.values(), *_COSTS.values()]
    return Table([Head("recipe", False), Head("seeds"), *map(Head, names)], rows, kind="sortable").filled()


def _differences(groups: Mapping[str, Sequence[RunFacts]]) -> Table:
    """Return the fields in which the recipes differ, a column for each recipe."""
    found = recipe_differences(*(seeds[0].recipe for seeds in groups.values()))
    rows = [Row([Cell(key), *map(Cell, values)]) for key, values in found.items() if key != "seed"]
    return Table([Head("field", False), *(Head(name, False) for name in groups)], rows[:_MOST_DIFFERENCES])


def runs_table(runs: Sequence[RunFacts], start: Path) -> Table:
    """Return a table of runs, with links from the folder ``start`` to their own pages."""
    heads = [Head("run", False), Head("state", False), Head("seed"), Head("top-1 %"), Head("agreement %"),
             Head("teacher %"), Head("steps"), Head("images"), Head("seconds"), Head("updated", False)]  # fmt: skip
    rows = []
    for one in runs:
        result, updated = one.result, one.status.get("updated")
        teacher = (result.teacher if result is not None else None) or Figures()
        figures = [one.student.top1, one.student.agreement, teacher.top1]
        counts = [one.step, None if result is None else result.images]
        rows.append(
            Row(
                [
                    Cell(one.run.name, link=link_to(one.run.page, start)),
                    Cell(one.state, is_state=True),
                    Cell(str(one.recipe.seed), one.recipe.seed),
                    *numbers(figures),
                    *numbers(counts, 0),
                    *numbers([None if result is None else result.seconds], 1),
                    Cell("")
                    if updated is None
                    else Cell(format_time(updated).replace(" ", "\N{NO-BREAK SPACE}"), updated),
                ]
            )
        )
    return Table(heads, rows, kind="sortable").filled()
