"""Charts of a page: curves, points, many-coloured paths; each with what a pointer over it is told.

A chart is drawn once, as SVG; ``hover`` has its numbers in the units of the data and where the axes lie in the drawing,
from which the page's script tells what is under the pointer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raykd.errors import printable
from raykd.reporting.pages.svg import (
    BOTTOM,
    CARD,
    GRID,
    INK,
    LEFT,
    RAMP,
    SERIES,
    add_axes,
    drawing,
    label_axes,
    one_line,
    scale,
    short_number,
    to_markup,
)
from raykd.results import Breakdown

WIDTH, HEIGHT = 300, 196
"""Pixels of a chart in a grid of four; on a telephone it is a little wider."""
_MOST_POINTS = 400  # of a curve; the eye sees no more in such a width
_WIDE_RANGE = 500.0  # from the smallest to the largest number, above which powers of ten are told apart
_LONGEST_TICK = 14  # characters
_STEPS = {"after": "steps-post", "before": "steps-pre"}


@dataclass(frozen=True)
class Legend:
    """A name beside a mark of a colour: ``--series-N`` or ``--ramp-N``; of a reference, of a broken line."""

    name: str
    colour: str
    is_broken: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing with its title, its legend and what a pointer is told, ready for the page."""

    title: str
    svg: Markup
    hover: Mapping[str, Any]
    legend: Sequence[Legend] = ()
    is_wide: bool = False


@dataclass(frozen=True)
class Curve:
    """A curve of (x, y), perhaps inside a band from ``low`` to ``high``; a reference is one number for all x.

    ``colour`` counts the colours of curves; default: the next one of its chart.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    is_reference: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Point:
    """A point of a cloud: what it is called, and how good it is, from 0 (worst) to 1."""

    x: float | str
    y: float
    name: str
    rank: float = 1.0
    details: Sequence[str] = field(default_factory=tuple)


def curve_chart(title: str, unit: str, curves: Sequence[Curve], *, x_label: str = "step") -> Chart:
    """Draw curves over steps. ``unit`` stands above the axis."""
    shown = [thinned for curve in curves if (thinned := _thinned(curve)) is not None]
    values = [value for curve in shown for value in (*curve.y, *(curve.low or ()), *(curve.high or ()))]
    with drawing(WIDTH, HEIGHT) as figure:
        axes = add_axes(figure)
        scale(axes, "y", is_log=_is_wide(values))
        colours = _colours(shown)
        for curve, colour in zip(shown, colours, strict=True):
            if curve.is_reference:
                axes.axhline(curve.y[0], color=colour, linewidth=1.4, linestyle=(0, (1, 3)))
                continue
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(curve.x, curve.y, color=colour)
            axes.plot(curve.x[-1:], curve.y[-1:], "o", color=colour, markersize=6, markeredgecolor=CARD)
        scale(axes, "y", is_log=_is_wide(values))
        scale(axes, "x", is_log=False)
        if min(values, default=-1.0) >= 0 > axes.get_ylim()[0]:
            axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # no axis promises what cannot be, and 0 is seen
        label_axes(axes, x_label, unit)
        series = [_told(curve, colour) for curve, colour in zip(shown, colours, strict=True)]
        hover = {"kind": "curves", "x": x_label, **_frame(axes), "series": series}
        names = ", ".join(curve.name for curve in shown)
        svg = to_markup(figure, f"{title}, {unit}, by {x_label}: {names}")
    legend = [
        Legend(curve.name, _name_of(colour), curve.is_reference) for curve, colour in zip(shown, colours, strict=True)
    ]
    return Chart(title, svg, hover, legend if len(shown) > 1 else ())


def point_chart(
    title: str,
    points: Sequence[Point],
    x_label: str,
    y_label: str,
    *,
    is_log: bool = False,
    line: Curve | None = None,
    line_holds: Literal["after", "before"] = "after",
    line_colour: int = 0,
) -> Chart:
    """Draw points, over numbers or over words, coloured by their rank; a ``line`` of steps goes through some of them.

    Each of its values holds ``after`` its place, up to the next one, or ``before`` it.
    """
    words = sorted({str(point.x) for point in points if isinstance(point.x, str)})
    places = [_place(point.x, words, index) for index, point in enumerate(points)]
    with drawing(WIDTH, HEIGHT) as figure:
        axes = add_axes(figure)
        scale(axes, "x", is_log=is_log and not words)
        if line is not None:
            axes.plot(line.x, line.y, color=SERIES[line_colour], drawstyle=_STEPS[line_holds], linewidth=1.4)
        colours = [_ramp(point.rank) for point in points]
        axes.scatter(places, [point.y for point in points], s=42, c=colours, edgecolors=CARD, linewidths=0.8, zorder=3)
        scale(axes, "y", is_log=False)
        if words:
            axes.set_xticks(range(len(words)), [_shortened(word) for word in words])
            axes.set_xlim(-0.5, len(words) - 0.5)
        else:
            scale(axes, "x", is_log=is_log)
        label_axes(axes, x_label, y_label)
        pixels = _pixels(axes, figure, places, [point.y for point in points])
        told = [
            {"at": [at], "name": printable(point.name), "details": [*map(printable, point.details)]}
            for at, point in zip(pixels, points, strict=True)
        ]
        hover = {"kind": "points", "paths": told}
        svg = to_markup(figure, f"{title}: {y_label} by {x_label}, {len(points)} points")
    return Chart(title, svg, hover)


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates: a value for each path, None where it has none."""

    name: str
    values: Sequence[float | str | None]
    is_log: bool = False


def path_chart(title: str, axes_of: Sequence[Axis], points: Sequence[Point]) -> Chart:
    """Draw parallel coordinates: a path through all axes for each point."""
    width, height, margin = max(1180, 130 * len(axes_of)), 320, 84
    with drawing(width, height) as figure:
        box = (margin / width, 30 / height, (width - 2 * margin) / width, (height - 84) / height)
        axes = figure.add_axes(box)
        axes.set(xlim=(0, len(axes_of) - 1), ylim=(0, 1))
        axes.set_axis_off()
        heights = []
        for index, one in enumerate(axes_of):
            axes.plot([index, index], [0, 1], color=GRID, linewidth=1.4, clip_on=False)
            places, ticks = _normalised(one)
            heights.append(places)
            for at, text in ticks:
                axes.text(index - 0.008 * len(axes_of), at, text, ha="right", va="center", clip_on=False)
            axes.text(index, 1.1, _shortened(one.name, 20), ha="center", va="bottom", clip_on=False)
        pixels = []
        for number, point in enumerate(points):
            found = [(index, places[number]) for index, places in enumerate(heights)]
            known = [(x, y) for x, y in found if y is not None]
            axes.plot(
                *zip(*known, strict=True),
                color=_ramp(point.rank),
                linewidth=1.3,
                alpha=0.85,
                clip_on=False,
                zorder=1 + point.rank,
            )
            pixels.append(_pixels(axes, figure, [x for x, _ in known], [y for _, y in known]))
        told = [
            {"at": at, "name": printable(point.name), "details": [*map(printable, point.details)]}
            for at, point in zip(pixels, points, strict=True)
        ]
        svg = to_markup(figure, f"{title}: {len(points)} paths through {', '.join(one.name for one in axes_of)}")
    return Chart(title, svg, {"kind": "points", "paths": told}, is_wide=True)


def reliability_chart(title: str, breakdowns: Mapping[str, Breakdown]) -> Chart:
    """Draw how often answers of each confidence are right; a calibrated network lies on the diagonal."""
    with drawing(WIDTH, HEIGHT) as figure:
        axes = add_axes(figure)
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1.2, linestyle=(0, (1, 3)))
        pixels: list[dict[str, Any]] = []
        for colour, (name, one) in zip(SERIES, breakdowns.items(), strict=False):
            bins = [each for each in one.bins if each.images]
            x, y = [each.confidence for each in bins], [each.accuracy for each in bins]
            most = max((each.images for each in bins), default=1)
            sizes = [10 + 90 * each.images / most for each in bins]
            axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.6)
            axes.scatter(x, y, s=sizes, color=colour, edgecolors=CARD, linewidths=0.8, zorder=3)
            axes.set(xlim=(0, 104), ylim=(0, 108))
            for at, each in zip(_pixels(axes, figure, x, y), bins, strict=True):
                details = [
                    f"{each.accuracy:.1f} % right at {each.confidence:.1f} % confidence",
                    f"{each.images:,} images",
                ]
                pixels.append({"at": [at], "name": name, "details": details})
        scale(axes, "x", is_log=False)
        scale(axes, "y", is_log=False)
        label_axes(axes, "confidence, %", "accuracy, %")
        svg = to_markup(figure, f"{title}: accuracy by confidence of {', '.join(breakdowns)}")
    legend = [Legend(name, _name_of(colour)) for name, colour in zip(breakdowns, SERIES, strict=False)]
    return Chart(title, svg, {"kind": "points", "paths": pixels}, [*legend, Legend("calibrated", "--muted", True)])


def _thinned(curve: Curve) -> Curve | None:
    """Return a curve without what is not finite, and of few enough points: of each stretch its extremes."""
    rows = [curve.x, curve.y, curve.low or curve.y, curve.high or curve.y]
    table = np.array(rows, dtype=float)
    table = table[:, np.isfinite(table).all(0)]
    if not table.shape[1]:
        return None
    if table.shape[1] > _MOST_POINTS:
        parts = np.array_split(np.arange(table.shape[1]), _MOST_POINTS // 2 - 1)
        kept = {int(part[pick(table[1, part])]) for part in parts for pick in (np.argmin, np.argmax)}
        table = table[:, sorted({0, *kept, table.shape[1] - 1})]
    x, y, low, high = table.tolist()
    has_band = curve.low is not None
    return replace(curve, x=x, y=y, low=low if has_band else None, high=high if has_band else None)


def _is_wide(values: Sequence[float]) -> bool:
    low = min(values, default=0.0)
    return low > 0 and max(values) > _WIDE_RANGE * low


def _colours(curves: Sequence[Curve]) -> list[str]:
    following = count()
    own = [next(following) if one.colour is None else one.colour for one in curves if not one.is_reference]
    colours = (SERIES[number % len(SERIES)] for number in own)
    return [INK if curve.is_reference else next(colours) for curve in curves]


def _name_of(colour: str) -> str:
    if colour == INK:
        return "--muted"
    return f"--series-{SERIES.index(colour) + 1}"


def _ramp(rank: float) -> str:
    return RAMP[min(int(rank * len(RAMP)), len(RAMP) - 1)]


def _frame(axes: Axes) -> dict[str, Any]:
    """Tell where the axes lie in the drawing, in pixels from the top left, and what they span."""
    width, height = axes.bbox.size
    return {
        "box": [LEFT, round(HEIGHT - BOTTOM - float(height), 1), round(LEFT + float(width), 1), HEIGHT - BOTTOM],
        "xlim": [*map(float, axes.get_xlim())],
        "ylim": [*map(float, axes.get_ylim())],
        "ylog": axes.get_yscale() == "log",
    }


def _told(curve: Curve, colour: str) -> dict[str, Any]:
    told: dict[str, Any] = {"name": printable(curve.name), "colour": _name_of(colour), "y": _rounded(curve.y)}
    if not curve.is_reference:
        told["x"] = _rounded(curve.x)
    if curve.low is not None and curve.high is not None:
        told |= {"low": _rounded(curve.low), "high": _rounded(curve.high)}
    return told


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _pixels(axes: Axes, figure: Figure, x: Sequence[float], y: Sequence[float]) -> list[list[float]]:
    if not len(x):
        return []
    height = figure.bbox.height
    places = axes.transData.transform(np.column_stack([x, y]).astype(float))
    return [[round(float(across), 1), round(float(height - up), 1)] for across, up in places]


def _place(x: float | str, words: Sequence[str], index: int) -> float:
    """Return where a point stands: of words beside each other, so that equal ones can be told apart."""
    if isinstance(x, str):
        return words.index(x) + 0.3 * math.sin(12.9898 * (index + 1))
    return float(words.index(str(x))) if words and str(x) in words else float(x)


def _normalised(axis: Axis) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return values as heights from 0 to 1, None where there is none, and what is written at which height."""
    known = [value for value in axis.values if value is not None]
    numbers = [value for value in known if not isinstance(value, str)]
    if len(numbers) < len(known) or not numbers:
        words = sorted({str(value) for value in known})
        at = {word: (index + 0.5) / len(words) for index, word in enumerate(words)}
        ticks = [(height, _shortened(word, 11)) for word, height in at.items()]
        return [None if value is None else at[str(value)] for value in axis.values], ticks
    is_log = axis.is_log and min(numbers) > 0
    low, high = ((math.log(end) if is_log else end) for end in (min(numbers), max(numbers)))
    span = (high - low) or 1.0

    def height(value: float) -> float:
        return ((math.log(value) if is_log else value) - low) / span

    places = (0.0, 0.25, 0.5, 0.75, 1.0) if high > low else (0.0,)
    values = [low + place * span for place in places]
    texts = [short_number(float(f"{math.exp(value) if is_log else value:.3g}")) for value in values]
    heights = [None if value is None or isinstance(value, str) else height(value) for value in axis.values]
    return heights, list(zip(places, texts, strict=True))


def _shortened(text: str, longest: int = _LONGEST_TICK) -> str:
    text = one_line(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
