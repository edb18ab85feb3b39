"""Charts: the curves in the drawing are those of the numbers, and a pointer is told the same numbers."""

import math
import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from raykd.reporting.pages.charts import (
    HEIGHT,
    WIDTH,
    Axis,
    Chart,
    Curve,
    Point,
    curve_chart,
    path_chart,
    point_chart,
    reliability_chart,
)
from raykd.reporting.pages.svg import short_number
from tests.reporting.pages.made import HOSTILE, breakdown

SVG = "{http://www.w3.org/2000/svg}"


def drawn(chart: Chart) -> ElementTree.Element:
    root = ElementTree.fromstring(str(chart.svg))
    assert not re.search(r"#[0-9a-f]{6}", str(chart.svg)), "all colours are the page's"
    assert (root.get("role"), root.get("width"), root.find(f"{SVG}metadata")) == ("img", None, None)
    return root


def lines_of(root: ElementTree.Element, colour: str) -> list[list[tuple[float, float]]]:
    """The corners of the lines of a colour, in pixels."""
    found = []
    for path in root.iter(f"{SVG}path"):
        if f"stroke: var({colour})" in path.get("style", "") and "fill: none" in path.get("style", ""):
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d", ""))]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def test_a_curve_stands_where_its_numbers_say() -> None:
    chart = curve_chart("accuracy", "%", [Curve("top-1", [1, 2, 3], [10.0, 30.0, 20.0])])
    root = drawn(chart)
    assert root.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"
    (line,) = lines_of(root, "--series-1")
    left, top, right, bottom = chart.hover["box"]
    (low, high), (least, most) = chart.hover["xlim"], chart.hover["ylim"]
    for (x, y), step, value in zip(line, [1, 2, 3], [10.0, 30.0, 20.0], strict=True):
        assert x == pytest.approx(left + (step - low) / (high - low) * (right - left), abs=0.1)
        assert y == pytest.approx(bottom - (value - least) / (most - least) * (bottom - top), abs=0.1)
    (series,) = chart.hover["series"]
    assert (series["x"], series["y"], series["colour"]) == ([1, 2, 3], [10, 30, 20], "--series-1")
    assert chart.legend == (), "one curve needs none"
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"step", "%"} <= set(texts)


def test_a_band_a_reference_and_colours_that_are_given() -> None:
    chart = curve_chart(
        "x",
        "%",
        [
            Curve("mean", [1, 2], [5, 6], [4, 5], [6, 7], colour=3),
            Curve("teacher", [0], [9.5], is_reference=True),
            Curve("other", [1, 2], [1, 2], colour=1),
        ],
    )
    drawn(chart)
    assert [(one.name, one.colour, one.is_broken) for one in chart.legend] == [
        ("mean", "--series-4", False),
        ("teacher", "--muted", True),
        ("other", "--series-2", False),
    ]
    first, teacher, _ = chart.hover["series"]
    assert (first["low"], first["high"]) == ([4, 5], [6, 7])
    assert "x" not in teacher
    assert chart.hover["ylim"][1] > 9.5, "the line is in sight"


def test_what_is_not_finite_is_left_out_and_a_long_curve_keeps_its_extremes() -> None:
    values = [math.sin(step / 50) for step in range(5000)]
    values[1234], values[4000], values[7] = 9.0, -9.0, math.nan
    chart = curve_chart("x", "", [Curve("long", list(range(5000)), values), Curve("none", [1.0], [math.inf])])
    (series,) = chart.hover["series"]
    assert len(series["x"]) <= 400
    assert (series["x"][0], series["x"][-1]) == (0, 4999)
    assert {9.0, -9.0} <= set(series["y"])
    assert len(str(chart.svg)) < 20_000


def test_a_wide_range_of_positive_numbers_is_shown_in_powers_of_ten() -> None:
    assert curve_chart("x", "", [Curve("a", [1, 2], [1e-3, 10.0])]).hover["ylog"]
    assert not curve_chart("x", "", [Curve("a", [1, 2], [0.0, 10.0])]).hover["ylog"]
    assert not curve_chart("x", "", [Curve("a", [1, 2], [1.0, 10.0])]).hover["ylog"]


def test_one_number_for_all_steps_and_one_step_alone_can_be_drawn() -> None:
    drawn(curve_chart("flat", "", [Curve("a", [1, 2, 3], [5.0, 5.0, 5.0])]))
    drawn(curve_chart("alone", "", [Curve("a", [7], [5.0])]))


@pytest.mark.parametrize("name", [HOSTILE, "$x^{", "日本語", "a\nb", "x" * 300])
def test_names_from_outside_are_text_in_a_drawing(name: str) -> None:
    chart = curve_chart(name, name, [Curve(name, [1, 2], [1, 2]), Curve(name, [1, 2], [2, 1])], x_label=name)
    texts = [text.text for text in drawn(chart).iter(f"{SVG}text")]
    shown = " ".join(name.replace("\x1b", "\\x1b").split())
    assert [text for text in texts if text is not None and not re.fullmatch(r"[\d.]+", text)] == [shown, shown]
    drawn(point_chart(name, [Point(name, 1.0, name), Point("b", 2.0, name)], name, name))
    drawn(path_chart(name, [Axis(name, [name, "b"]), Axis("y", [1.0, 2.0])], [Point(0, 0, name), Point(0, 0, name)]))


def test_points_are_where_the_pointer_finds_them() -> None:
    points = [Point(0.001, 10.0, "trial 0", 0.0, ["lr: 0.001"]), Point(0.1, 20.0, "trial 1", 1.0)]
    chart = point_chart("lr", points, "lr", "accuracy", is_log=True, line=Curve("best", [0.001, 0.1], [10, 20]))
    root = drawn(chart)
    uses = [(float(use.get("x", 0)), float(use.get("y", 0))) for use in root.iter(f"{SVG}use")]
    for path in chart.hover["paths"]:
        assert any(math.dist(path["at"][0], use) < 0.2 for use in uses)
    assert chart.hover["paths"][0]["details"] == ["lr: 0.001"]
    assert "var(--ramp-1)" in str(chart.svg) and "var(--ramp-5)" in str(chart.svg)


def test_points_over_words_stand_at_their_words() -> None:
    points = [Point(word, float(index), f"trial {index}") for index, word in enumerate(["b", "a", "b"])]
    chart = point_chart("model", points, "", "accuracy")
    x = [path["at"][0][0] for path in chart.hover["paths"]]
    assert x[1] < min(x[0], x[2]), "a stands before b"
    assert x[0] != x[2], "equal ones are told apart"


def test_a_path_goes_through_every_axis_that_it_has_a_value_of() -> None:
    axes = [
        Axis("lr", [0.001, 0.1, 0.01], is_log=True),
        Axis("model", ["a", "b", None]),
        Axis("same", [3, 3, 3]),
    ]
    chart = path_chart("all", axes, [Point(0, 0, f"trial {index}", index / 2) for index in range(3)])
    drawn(chart)
    paths = [path["at"] for path in chart.hover["paths"]]
    assert [len(path) for path in paths] == [3, 3, 2]
    assert paths[2][0][1] == pytest.approx((paths[0][0][1] + paths[1][0][1]) / 2, abs=0.2), "halfway in powers of ten"


def test_calibration_is_shown_by_confidence() -> None:
    chart = reliability_chart("Calibration", {"student": breakdown(), "teacher": breakdown()})
    drawn(chart)
    assert [one.name for one in chart.legend] == ["student", "teacher", "calibrated"]
    assert len(chart.hover["paths"]) == 4, "an empty bin is no point"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.05, "0.05"),
        (250, "250"),
        (1500, "1500"),
        (12_000, "12k"),
        (3e6, "3M"),
        (0.0001, "1e-4"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers_at_an_axis_are_short(value: float, text: str) -> None:
    assert short_number(value) == text


def test_nobodys_settings_have_a_say_and_none_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> str:
        return re.sub("#?[mp][0-9a-f]{10}", "", str(curve_chart("x", "%", [Curve("a", [1, 2], [1, 2])]).svg))

    plain = draw()
    monkeypatch.setitem(mpl.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(mpl.rcParams, "axes.grid", False)
    before = dict(mpl.rcParams)
    assert draw() == plain
    assert dict(mpl.rcParams) == before
