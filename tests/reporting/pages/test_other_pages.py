"""Pages of several runs, of searches, tables and stores."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from raykd.errors import CorruptError, UsageError
from raykd.files import write_json
from raykd.reporting.pages import write
from raykd.reporting.pages.search_page import _front
from raykd.results import SearchRecord, TrialRecord
from raykd.store.run_directory import RunDirectory
from tests.reporting.pages.made import HOSTILE, Element, made_record, made_run, made_search, made_table, parsed

SHORT = ("schedule.steps=20", "schedule.report_every=4", "controls=[]")


def written(page: Path) -> Element:
    return parsed(page.read_text())


def hover(root: Element, title: str) -> dict[str, object]:
    (figure,) = [one for one in root.all("figure") if one.one("figcaption").text.startswith(title)]
    told: dict[str, object] = json.loads(figure.one("div", "plot").attributes["data-hover"])
    return told


def test_runs_stand_beside_each_other_and_seeds_are_one(tmp_path: Path) -> None:
    runs = [made_run(tmp_path, overrides=(*SHORT, f"seed={seed}"), top1=90.0 + 2 * seed) for seed in range(3)]
    runs.append(made_run(tmp_path, "kd_digits", ("schedule.steps=20", "schedule.report_every=4"), top1=97.0))
    page = write.write_any([run.path for run in runs], tmp_path / "cmp.html")
    root = written(page)
    assert root.one("h1").text == "dafl_digits · kd_digits"
    summary = [[cell.text for cell in row.all("td")] for row in root.all("table")[0].one("tbody").all("tr")]
    assert [row[:3] for row in summary] == [["dafl_digits", "3", "92.00 ± 2.00"], ["kd_digits", "1", "97.00"]]
    told = SimpleNamespace(**hover(root, "Accuracy on the test split: top-1"))
    first, second = told.series
    assert first["y"][0] == pytest.approx(82.0)
    assert (first["low"][0], first["high"][0]) == pytest.approx((80.0, 84.0))
    assert "low" not in second
    assert "method.name" in [cell.text for cell in root.all("td")]
    assert [one.text for one in root.all("table")[-1].all("td") if one.text.startswith("kd_digits")] == [runs[-1].name]


def test_runs_of_one_name_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    runs = [made_run(tmp_path, overrides=(*SHORT, f"method.entropy_weight={w}")) for w in (1, 2)]
    root = written(write.write_comparison(runs, tmp_path / "cmp.html"))
    assert root.one("h1").text == " · ".join(run.name.removesuffix("-s0") for run in runs)


def test_a_search_is_told_by_its_trials(tmp_path: Path) -> None:
    folder = made_search(tmp_path, made_record())
    (tmp_path / "made-0-s1").mkdir()
    (tmp_path / "made-0-s1" / "report.html").write_text("a page")
    root = written(write.write_any([folder]))
    assert root.one("p", "big").text == "83%"
    rows = root.one("table", "sortable").one("tbody").all("tr")
    assert len(rows) == 6
    assert [row.attributes.get("class") for row in rows].count("is-own") == 1
    assert [one.attributes["href"] for one in root.all("a")] == ["../../made-0-s1/report.html"]
    assert len(hover(root, "History of accuracy")["paths"]) == 5, "a pruned trial has no value"  # type: ignore[arg-type]
    assert [bar.text for bar in root.one("div", "bars").all("span", "value")] == ["70 %", "30 %"]
    captions = [one.text for one in root.all("figcaption")]
    assert captions == [
        "History of accuracy",
        "student_optim.lr",
        "student.model",
        "data.augment",
        "Parallel coordinates",
    ]
    assert HOSTILE.replace("\x1b", "\\x1b") in root.one("section", "warnings").text
    assert root.one("pre", "command").text.endswith("made-0/best.yaml")


def test_two_objectives_have_a_front(tmp_path: Path) -> None:
    folder = made_search(tmp_path, made_record(6, "accuracy", "latency"), "accuracy", "latency")
    root = written(write.write_search(folder))
    assert len(hover(root, "Pareto front")["paths"]) == 5  # type: ignore[arg-type]
    assert root.one("pre", "command").text.endswith("made-0/best-1.yaml")


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_trials_without_finite_values_are_in_the_table_and_not_drawn(tmp_path: Path, odd: float) -> None:
    record = made_record(6, "accuracy", "latency")
    trials = list(record.trials)
    trials[0] = replace(trials[0], values={"accuracy": 80.0, "latency": odd})
    trials[2] = replace(trials[2], values={"accuracy": odd, "latency": 1.0}, test_top1=odd)
    trials[3] = replace(trials[3], parameters={**trials[3].parameters, "student_optim.lr": odd})
    folder = made_search(tmp_path, replace(record, trials=trials), "accuracy", "latency")
    root = written(write.write_search(folder))
    assert len(root.one("table", "sortable").one("tbody").all("tr")) == 6
    for title in ("History of accuracy", "History of latency", "Pareto front", "student_optim.lr"):
        assert len(hover(root, title)["paths"]) == 3, title  # type: ignore[arg-type]


def front_of(directions: dict[str, str]) -> list[tuple[float, float]]:
    """The corners of a front's line, in pixels, of trials of (latency, accuracy) = (1, 50), (2, 70) and (4, 80)."""
    values = [(1.0, 50.0), (2.0, 70.0), (4.0, 80.0)]
    trials = [
        TrialRecord(index, "complete", {**dict.fromkeys(directions, 1.0), "accuracy": y, "latency": x}, {})
        for index, (x, y) in enumerate(values)
    ]
    chart = _front([(one, 0.0) for one in trials], directions, {0, 1, 2})
    lines = re.findall(r'<path d="([^"]*)"[^>]*stroke: ?var\(--series-1\)', str(chart.svg))
    return [(float(x), float(y)) for line in lines for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", line)]


def test_a_fronts_line_is_what_it_reaches(tmp_path: Path) -> None:
    """Where less latency is better, 50 % holds from 1 up to 2; where more of it were, 70 % holds from 2 down to 1."""
    for direction, is_before in (("minimize", False), ("maximize", True)):
        corners = front_of({"accuracy": "maximize", "latency": direction})
        first, second, third = corners[:3]
        assert len(corners) == 5, direction
        assert (first[0] == second[0], second[1] == third[1]) == (is_before, is_before)
        assert (first[1] == second[1], second[0] == third[0]) == (not is_before, not is_before)
    assert front_of({"accuracy": "maximize", "latency": "minimize", "parameters": "minimize"}) == []


def test_trials_that_were_kept_before_the_counts_say_so(tmp_path: Path) -> None:
    folder = made_search(tmp_path, made_record())
    assert "as of trial" not in written(write.write_search(folder)).text
    report = json.loads((folder / "search.json").read_text())
    write_json(folder / "search.json", {**report, "trials": {**report["trials"], "complete": 8, "target": 20}})
    root = written(write.write_search(folder))
    assert {"How the trials went, as of trial 5", "Trials, as of trial 5"} < {one.text for one in root.all("h2")}
    (folder / "trials.json").unlink()
    assert "all are shown once the search has ended or was stopped" in written(write.write_search(folder)).text


def test_a_search_of_before_trials_were_kept_shows_the_best(tmp_path: Path) -> None:
    root = written(write.write_search(made_search(tmp_path, None)))
    assert "this search was made before they were kept" in root.text
    assert "Best trials" in [one.text for one in root.all("h2")]
    assert len(root.one("table", "sortable").one("tbody").all("tr")) == 1


@pytest.mark.parametrize("name", ["search.json", "trials.json"])
@pytest.mark.parametrize("content", ["[]", '{"trials": 3}', '{"trials": [{"trial": "x"}]}', "{"])
def test_a_damaged_search_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = made_search(tmp_path, made_record())
    (folder / name).write_text(content)
    with pytest.raises(CorruptError, match=f"{name} is damaged"):
        write.write_search(folder)


def test_a_record_of_trials_is_read_back() -> None:
    record = made_record(6, "accuracy", "latency")
    assert SearchRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_table_has_published_beside_measured(tmp_path: Path) -> None:
    root = written(write.write_any([made_table(tmp_path)]))
    assert root.one("h1").text == HOSTILE.replace("\x1b", "\\x1b")
    first = root.all("table", "published")[0].one("tbody").all("tr")[0]
    assert [cell.text for cell in first.all("td")][2:6] == ["99.00", "92.00 ± 2.83", "−7.00", "99.50"]
    assert len(first.all("i")) == 2
    assert len(first.all("b")) == 2, "the figure and the band of its deviation"
    (link,) = root.all("a")
    assert link.text == "s1"
    assert link.attributes["href"].startswith("../../") and link.attributes["href"].endswith("-s1/report.html")
    assert "not finite" in root.text


def test_a_mean_that_is_not_finite_is_not_drawn(tmp_path: Path) -> None:
    folder = made_table(tmp_path, float("nan"))
    first = written(write.write_table(folder)).all("table", "published")[0].one("tbody").all("tr")[0]
    assert len(first.all("i")) == 1, "the published figure alone"
    assert len(first.all("b")) == 1, "what is written, without a band"


@pytest.mark.parametrize("content", ["[]", '{"rows": 3}', '{"table": "x", "rows": []}'])
def test_a_damaged_table_is_named(tmp_path: Path, content: str) -> None:
    folder = made_table(tmp_path)
    (folder / "table.json").write_text(content)
    with pytest.raises(CorruptError, match=r"table\.json is damaged"):
        write.write_table(folder)


def test_a_store_lists_what_is_in_it(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT)
    made_run(tmp_path, "kd_digits", finished=False)
    write.write_run(run)
    write.write_search(made_search(tmp_path, made_record()))
    (tmp_path / "broken-0-s0").mkdir()
    (tmp_path / "broken-0-s0" / "status.json").write_text("{}")
    (tmp_path / "broken-0-s0" / "experiment.json").write_text("[]")
    root = written(write.write_any([tmp_path]))
    links = [one.attributes["href"] for one in root.all("a")]
    assert links == ["searches/made-0/report.html", f"{run.name}/report.html"]
    assert len(root.one("table", "sortable").one("tbody").all("tr")) == 2
    assert "broken-0-s0: " in root.one("section", "warnings").text


def test_what_is_nothing_of_these_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no run, search or table"):
        write.write_any([tmp_path])
    with pytest.raises(UsageError, match="does not exist"):
        write.write_any([tmp_path / "nowhere"])
    run = made_run(tmp_path)
    with pytest.raises(UsageError, match="is not a run directory"):
        write.write_any([run.path, tmp_path])


def test_a_page_elsewhere_has_links_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path / "runs", overrides=SHORT)
    write.write_run(run)
    monkeypatch.chdir(tmp_path)
    page = write.write_store(Path("runs"), Path("pages/of mine/all.html"))
    (link,) = [one.attributes["href"] for one in written(page).all("a")]
    assert (page.parent / link).resolve() == RunDirectory(run.path).page.resolve()


def test_a_store_whose_names_are_no_text_is_shown(tmp_path: Path) -> None:
    made_run(tmp_path).path.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe-s0"))
    assert r"\xdcff\xdcfe-s0" in written(write.write_store(tmp_path, tmp_path / "all.html")).text
