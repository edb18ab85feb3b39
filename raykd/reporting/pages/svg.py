"""Drawings of Matplotlib as SVG that stands in a page: its colours and fonts are the page's, light or dark.

Drawn where the page is made, an ordinary chart is some 10 KB of vectors and needs no program to be shown or printed.
Nobody's settings of Matplotlib have a say, and none is changed: figures are made as objects, inside a style context.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from raykd.errors import printable

SERIES = tuple(f"#a100{index:02x}" for index in range(8))
"""Colours of curves that stand for others: in the page they are ``var(--series-1)`` and so on."""
RAMP = tuple(f"#a200{index:02x}" for index in range(5))
"""Likewise of five steps from the worst to the best, ``var(--ramp-1)`` and so on."""
INK, GRID, CARD = "#a30000", "#a30001", "#a30002"
"""Likewise of text and axes, of lines of a grid, and of what a chart lies on."""
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 24, 34
"""Pixels around the axes of a chart."""
_NAMES = {
    **{colour: f"--series-{index + 1}" for index, colour in enumerate(SERIES)},
    **{colour: f"--ramp-{index + 1}" for index, colour in enumerate(RAMP)},
    **{INK: "--muted", GRID: "--grid", CARD: "--card"},
}
_SETTINGS = {
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.linewidth": 1.0,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.02,
    "axes.ymargin": 0.08,
    "figure.dpi": 72.0,
    "figure.facecolor": "none",
    "font.size": 11.0,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "lines.dash_capstyle": "round",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: it can be found, read out and copied
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.color": INK,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
}
_NUMBERS = count()
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_FONTS = re.compile(r"\s*font-family:[^;]*;?")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


@contextmanager
def drawing(width: int, height: int) -> Iterator[Figure]:
    """Yield an empty figure of so many pixels, in the style of all; no two name a part of theirs alike."""
    settings: dict[str, Any] = {**_SETTINGS, "svg.hashsalt": str(next(_NUMBERS))}
    with style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # it is shown in the reader's fonts, which have it
        yield Figure(figsize=(width / 72, height / 72))


def add_axes(figure: Figure, *, left: int = LEFT, bottom: int = BOTTOM) -> Axes:
    """Return axes that fill a figure but for the room of their labels."""
    width, height = figure.get_size_inches() * 72
    box = (left / width, bottom / height, (width - left - RIGHT) / width, (height - bottom - TOP) / height)
    return figure.add_axes(box)


def label_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Write what the axes show: the lower one's below its end, the other one's above its own."""
    axes.set_axisbelow(True)
    width, height = axes.bbox.size
    x_label, y_label = one_line(x_label), one_line(y_label)
    axes.text(1, -29 / height, x_label, transform=axes.transAxes, ha="right", va="baseline")
    axes.text(-LEFT / width + 2 / width, 1 + 12 / height, y_label, transform=axes.transAxes, ha="left", va="baseline")


def scale(axes: Axes, axis: str, *, is_log: bool) -> None:
    """Make an axis, ``x`` or ``y``, logarithmic or not, with few numbers in their shortest form."""
    if is_log:
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    one = axes.xaxis if axis == "x" else axes.yaxis
    if is_log:
        one.set_major_locator(LogLocator(numticks=5))
        low, high = sorted(one.get_view_interval())
        if high < 30 * low:  # hardly a power of ten in sight
            one.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
        one.set_minor_locator(NullLocator())
        one.set_minor_formatter(NullFormatter())
    else:
        one.set_major_locator(MaxNLocator(nbins=5 if axis == "y" else 4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    one.set_major_formatter(FuncFormatter(lambda value, _: short_number(value).replace("-", "−")))


def one_line(text: str) -> str:
    """Return a text from outside as a drawing takes it: on a line, control characters written out."""
    return " ".join(printable(text).split())


def short_number(value: float) -> str:
    """Write a number as a reader wants it at an axis: 0.05, 250, 12k, 3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def to_markup(figure: Figure, description: str) -> Markup:
    """Return a figure as an SVG element for a page, which fills the width that it is given."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for name in ("metadata", "defs"):
        for element in root.findall(f"{{{_SVG}}}{name}"):
            if name == "metadata" or element.find(f"{{{_SVG}}}style") is not None:
                root.remove(element)
    used = {reference for element in root.iter() for reference in _references(element)}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", one_line(description))
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    # ElementTree escapes all texts and attributes, so that this is markup whatever they say.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _references(element: ElementTree.Element) -> list[str]:
    link = element.get(_LINK, "")
    return [
        link.removeprefix("#"),
        *(found for value in element.attrib.values() for found in _REFERENCE.findall(value)),
    ]


def _themed(declarations: str) -> str:
    for colour, name in _NAMES.items():
        if colour in declarations:
            declarations = declarations.replace(colour, f"var({name})")
    return _FONTS.sub("", declarations)
