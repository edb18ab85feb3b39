"""The page of a search: how its trials went, which fields decided, and all of them in a table that can be sorted."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from raykd.config.yaml_file import dump_flow
from raykd.reporting.pages.charts import Axis, Chart, Curve, Point, path_chart, point_chart
from raykd.reporting.pages.facts import finite
from raykd.reporting.pages.page import format_time, render
from raykd.reporting.pages.parts import Bar, Cell, Fact, Head, Part, Row, Table, link_to, numbers
from raykd.results import SearchRecord, SearchResult, TrialRecord
from raykd.store.run_directory import RunDirectory

_STATES = ("complete", "pruned", "failed", "running")
_UNITS = {"agreement": "%", "accuracy": "%", "latency": "ms", "gpu_hours": "h"}
_MOST_SLICES = 12
_MOST_PATHS = 300  # beyond, nothing can be told apart
_SPREAD_FIELDS = 10  # axes of parallel coordinates


def search_page(report: SearchResult, record: SearchRecord | None, store: Path, start: Path, shown: str) -> str:
    """Return the page of a search.

    Args:
        report: its state.
        record: its trials; None where they were not kept, as by earlier releases.
        store: the folder of the trials' runs.
        start: the folder that the page is to lie in.
        shown: how the search's folder is called.
    """
    objectives = list(report.objectives)
    trials = record.trials if record is not None else _of_best(report)
    ranked = _ranked(trials, report.objectives)
    best = {one.trial for one in report.best[: None if len(objectives) > 1 else 1]}
    recipe = "best.yaml" if len(objectives) == 1 else f"best-{report.best[0].trial}.yaml" if report.best else ""
    return render(
        "search",
        title=report.study,
        report=report,
        updated=format_time(report.updated) if report.updated else None,
        objectives=report.objectives,
        units={name: _UNITS.get(name, "") for name in report.objectives},
        best=[one for one in report.best if one.trial in best],
        leader=report.best[0] if report.best else None,
        parameters=[Fact(name, _text(value)) for name, value in report.best[0].parameters.items()]
        if report.best
        else [],
        counts=_counts(report),
        history=[_history(ranked, name, direction) for name, direction in report.objectives.items()] if ranked else [],
        fronts=[_front(ranked, report.objectives, best)] if len(objectives) > 1 and ranked else [],
        importances=[(name, _importances(found)) for name, found in (record.importances if record else {}).items()],
        slices=list(_slices(ranked, objectives[0], record)) if ranked else [],
        paths=[_paths(ranked, objectives, record)] if len(ranked) > 1 else [],
        trials=_table(trials, objectives, best, store, start),
        is_whole=record is not None,
        as_of=_as_of(report, record),
        goes_on=report.trials.ended < report.trials.target,
        command=shlex.join(["raykd", "train", f"{shown}/{recipe}"]) if recipe and report.best else "",
    )


def _of_best(report: SearchResult) -> list[TrialRecord]:
    return [
        TrialRecord(one.trial, "complete", one.values, one.parameters, one.run, one.test_top1) for one in report.best
    ]


def _ranked(trials: Sequence[TrialRecord], objectives: Mapping[str, str]) -> list[tuple[TrialRecord, float]]:
    """Return the complete trials whose values are finite, each with its rank from 0 (the worst) to 1.

    The rank is by the first objective.
    """
    name, direction = next(iter(objectives.items()))
    complete = [
        one
        for one in trials
        if one.state == "complete" and all(finite((one.values or {}).get(each)) is not None for each in objectives)
    ]
    order = sorted(complete, key=lambda one: _value(one, name) * (1 if direction == "maximize" else -1))
    places = {one.trial: index / max(1, len(order) - 1) for index, one in enumerate(order)}
    return [(one, places[one.trial]) for one in complete]


def _with_unit(objective: str, between: str = ", ") -> str:
    unit = _UNITS.get(objective)
    return objective if unit is None else f"{objective}{between}{unit}"


def _value(trial: TrialRecord, name: str) -> float:
    assert trial.values is not None, "only complete trials are asked"
    return trial.values[name]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else dump_flow(value)


def _details(trial: TrialRecord) -> list[str]:
    values = [f"{name}: {value:.5g}" for name, value in (trial.values or {}).items()]
    return [*values, *(f"{name}: {_text(value)}" for name, value in trial.parameters.items())]


def _point(trial: TrialRecord, x: float | str, y: float, rank: float) -> Point:
    return Point(x, y, f"trial {trial.trial}", rank, _details(trial))


def _counts(report: SearchResult) -> list[Fact]:
    trials = report.trials
    found = [Fact("trials", f"{trials.ended} of {trials.target}")]
    found += [Fact(state, str(count)) for state in _STATES if (count := getattr(trials, state))]
    made = report.images_made or {}
    return found + [Fact(f"images made {when}", f"{images:,}") for when, images in made.items() if images]


def _as_of(report: SearchResult, record: SearchRecord | None) -> int | None:
    """Return the last trial that was kept where the counts are newer, as of a search at work; else None."""
    if record is None:
        return None
    counts = Counter(one.state for one in record.trials)
    if all(counts[state] == getattr(report.trials, state) for state in _STATES):
        return None
    return max((one.trial for one in record.trials), default=0)


def _history(ranked: Sequence[tuple[TrialRecord, float]], name: str, direction: str) -> Chart:
    points = [_point(one, one.trial, _value(one, name), rank) for one, rank in ranked]
    choose = max if direction == "maximize" else min
    x, y = [float(one.trial) for one, _ in ranked], [_value(one, name) for one, _ in ranked]
    best = [choose(y[: index + 1]) for index in range(len(y))]
    return point_chart(f"History of {name}", points, "trial", _with_unit(name), line=Curve("best so far", x, best))


def _front(ranked: Sequence[tuple[TrialRecord, float]], objectives: Mapping[str, str], best: set[int]) -> Chart:
    """Return the trials by their first two objectives; of two there is a line of what the front reaches.

    The first objective's best holds for all that the second may be worse than: to the right of a point where less is
    better, to its left where more is. Of three objectives the front is a surface, and no line in this plane.
    """
    first, second = list(objectives)[:2]
    points = [_point(one, _value(one, second), _value(one, first), float(one.trial in best)) for one, _ in ranked]
    if len(objectives) > 2:
        return point_chart(f"Pareto front: {first}, {second}", points, _with_unit(second), _with_unit(first))
    front = sorted((_value(one, second), _value(one, first)) for one, _ in ranked if one.trial in best)
    line = Curve("front", [x for x, _ in front], [y for _, y in front])
    holds: Literal["after", "before"] = "before" if objectives[second] == "maximize" else "after"
    return point_chart("Pareto front", points, _with_unit(second), _with_unit(first), line=line, line_holds=holds)


def _importances(found: Mapping[str, float]) -> list[Bar]:
    most = max(found.values(), default=1.0) or 1.0
    ordered = sorted(found.items(), key=lambda one: -one[1])
    return [Bar(name, f"{100 * share:.0f} %", [Part(round(100 * share / most, 2))]) for name, share in ordered]


def _slices(
    ranked: Sequence[tuple[TrialRecord, float]], objective: str, record: SearchRecord | None
) -> Iterator[Chart]:
    """Yield a chart of the objective over each field; those that decided most come first."""
    shares = (record.importances if record else {}).get(objective, {})
    logarithmic = record.logarithmic if record else []
    fields = dict.fromkeys(key for one, _ in ranked for key in one.parameters)
    for key in sorted(fields, key=lambda key: -shares.get(key, 0.0))[:_MOST_SLICES]:
        with_it = [(one, rank) for one, rank in ranked if key in one.parameters]
        places = [one.parameters[key] for one, _ in with_it]
        are_numbers = all(finite(place) is not None for place in places)
        points = [
            _point(one, place if are_numbers else _text(place), _value(one, objective), rank)
            for (one, rank), place in zip(with_it, places, strict=True)
        ]
        is_log = are_numbers and key in logarithmic and min(places) > 0
        yield point_chart(key, points, "", _with_unit(objective), is_log=is_log)


def _paths(
    ranked: Sequence[tuple[TrialRecord, float]], objectives: Sequence[str], record: SearchRecord | None
) -> Chart:
    shown = sorted(ranked, key=lambda one: one[1])[-_MOST_PATHS:]
    logarithmic = record.logarithmic if record else []
    keys = list(dict.fromkeys(key for one, _ in shown for key in one.parameters))[:_SPREAD_FIELDS]
    axes = [Axis(key, [_placed(one.parameters.get(key)) for one, _ in shown], key in logarithmic) for key in keys]
    axes += [Axis(name, [_value(one, name) for one, _ in shown]) for name in objectives]
    points = [_point(one, 0.0, 0.0, rank) for one, rank in shown]
    return path_chart("Parallel coordinates", axes, points)


def _placed(value: Any) -> float | str | None:
    if value is None:
        return None
    number = finite(value)
    return _text(value) if number is None else number


def _table(trials: Sequence[TrialRecord], objectives: Sequence[str], best: set[int], store: Path, start: Path) -> Table:
    keys = list(dict.fromkeys(key for one in trials for key in one.parameters))
    heads = [
        Head("trial"),
        Head("state", False),
        *(Head(_with_unit(name, " ")) for name in objectives),
        Head("test top-1 %"),
        *map(Head, keys),
        Head("run", False),
    ]
    rows = []
    for one in trials:
        values = one.values or {}
        page = None if one.run is None or "/" in one.run else RunDirectory(store / one.run).page
        rows.append(
            Row(
                [
                    Cell(str(one.trial), one.trial),
                    Cell(one.state, is_state=True),
                    *(Cell(f"{values[name]:.5g}", values[name]) if name in values else Cell("") for name in objectives),
                    *numbers([one.test_top1]),
                    *(_parameter(one.parameters[key]) if key in one.parameters else Cell("") for key in keys),
                    Cell(one.run or "", link=None if page is None else link_to(page, start)),
                ],
                one.trial in best,
            )
        )
    return Table(heads, rows, "sortable").filled()


def _parameter(value: Any) -> Cell:
    return Cell(_text(value), finite(value))
