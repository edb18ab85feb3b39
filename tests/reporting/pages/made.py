"""Runs and searches that were never trained, some with names that somebody hostile has chosen; and pages, parsed."""

import json
import math
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from raykd.files import write_json
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.recipe.table import table_entries
from raykd.reporting.tables import table_report
from raykd.results import (
    Breakdown,
    ConfidenceBin,
    Confusion,
    Figures,
    ImageStatistics,
    RunResult,
    SearchRecord,
    TableResult,
    TrialRecord,
)
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from tests.recipe.test_table import saved
from tests.reporting.test_tables import result

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\x1b[31m${{7*7}}"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAGklEQVR4nGMUYIAAFnkYQxHGUCDMYHwPZQAALeQB2tscXdMAAAAASUVORK5CYII="
"""A picture in base64."""
VOID = {"meta", "link", "img", "input", "br", "hr"}
_LOADS = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}


@dataclass
class Element:
    """An element of a page with what is in it."""

    name: str
    attributes: dict[str, str]
    children: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, name: str, of_class: str | None = None) -> "list[Element]":
        """Every element of a name in it, perhaps of a class."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                classes = child.attributes.get("class", "").split()
                if child.name == name and (of_class is None or of_class in classes):
                    found.append(child)
                found += child.all(name, of_class)
        return found

    def one(self, name: str, of_class: str | None = None) -> "Element":
        """The only such element."""
        (found,) = self.all(name, of_class)
        return found


class _Parser(HTMLParser):
    """Builds a tree, and refuses what is closed where it was not opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(page: str) -> Element:
    """The tree of a page, which loads nothing, has one script and bears no id twice."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    (root,) = parser.open
    elements = _walk(root)
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert len(root.all("script")) == len(root.all("style")) == 1
    assert not any(name.startswith("on") for element in elements for name in element.attributes)
    for element in elements:
        for name in _LOADS & element.attributes.keys():
            address = element.attributes[name]
            is_link = element.name == "a" and ":" not in address and not address.startswith("/")
            assert is_link or address.startswith(("data:", "#")), (element.name, address)
    assert "@import" not in root.one("style").text and "url(" not in root.one("style").text
    return root


def _walk(element: Element) -> list[Element]:
    inner = [child for child in element.children if isinstance(child, Element)]
    return [*inner, *(deeper for child in inner for deeper in _walk(child))]


def figures(top1: float, **more: Any) -> Figures:
    return Figures(step=20, top1=top1, agreement=top1 - 1, kl=0.25, ece=3.0, **more)


def breakdown(classes: int = 3) -> Breakdown:
    return Breakdown(
        (10,) * classes,
        (8,) * classes,
        tuple(Confusion(label, (label + 1) % classes, 2) for label in range(classes)),
        (ConfidenceBin(0, 0.0, 0.0), ConfidenceBin(3 * classes, 55.0, 60.0), ConfidenceBin(7 * classes, 95.0, 90.0)),
    )


def made_run(
    store: Path,
    recipe: str = "dafl_digits",
    overrides: tuple[str, ...] = (),
    *,
    top1: float = 91.25,
    names: tuple[str, ...] = ("zero", "one", "two"),
    finished: bool = True,
    reports: int = 5,
    sheets: int = 0,
    warnings: list[str] | None = None,
) -> RunDirectory:
    """A run as it lies on the disk."""
    experiment: Experiment = resolve(load_recipe(recipe, overrides))
    run = RunDirectory(store / experiment.run_id)
    run.path.mkdir(parents=True)
    spec = DataSpec("made", 3, 1, 8, (0.5,), (0.25,), names)
    opened = {"train": [], "test": ["digits/test"]}
    environment = {"cpu": "a processor", "workers": 1, "packages": {"torch": "2.15"}, "data_opened": opened}
    run.write_opening(experiment, spec, environment, step=0, steps=20)
    for index in range(reports):
        row = {"step": 4 * (index + 1), "accuracy/top1": top1 - 10 / (index + 1), "agreement": 80.0 + index}
        more = {"loss/onehot": 2.0 / (index + 1), "images/batch_norm_gap": 0.5, "steps_per_second": 4.0}
        run.append_row({**row, **more, "images_per_second": 400.0, "kl": 0.5, "norm/student": 3.0})
    for index in range(sheets):
        picture = run.path / "picture.png"
        Image.new("L", (40, 20), index).save(picture)
        run.write_sample_sheet(4 * (index + 1), picture.read_bytes())
        picture.unlink()
    if finished:
        result = RunResult(
            run=run.name,
            seed=experiment.recipe.seed,
            selected="blind",
            last=figures(top1 - 1),
            blind=figures(top1, synthetic_agreement=60.0),
            best=figures(top1 + 1),
            teacher=Figures(top1=99.0, ece=1.0),
            image_quality={"classes": 2.9},
            images=5120,
            seconds=61.0,
            phases={"start": 9.0, "synthesis": 60.0, "student": 21.0},
            teacher_forwards=3e6,
            data_opened=opened,
            warnings=warnings,
        )
        run.write_image_statistics(ImageStatistics((4, 0, 8), (PNG,) * 3, {"norm1": 0.5, f"norm2{HOSTILE}": 1.25}))
        weights = {
            "layer10.weight": torch.ones(2, 1, 3, 3),
            "layer2.weight": torch.linspace(-1, 1, 80 * 9).view(80, 1, 3, 3),
        }
        save_file(weights, run.student)
        run.write_breakdowns({"student": breakdown(), "teacher": breakdown()})
        run.write_status(state="finished", step=20, result=result.to_dict())
    return run


def made_record(trials: int = 6, *objectives: str) -> SearchRecord:
    """Trials of a search, the last of them pruned."""
    names = objectives or ("accuracy",)
    records = [
        TrialRecord(
            index,
            "complete" if index < trials - 1 else "pruned",
            {name: 50 + 40 * math.sin(index + place) for place, name in enumerate(names)},
            {
                "student_optim.lr": 10 ** (-4 + index / 3),
                "student.model": ("a", "b")[index % 2],
                "data.augment": [HOSTILE],
            },
            run=f"made-0-s{index}",
            test_top1=90.0 + index,
        )
        for index in range(trials)
    ]
    return SearchRecord(records, ["student_optim.lr"], {names[0]: {"student_optim.lr": 0.7, "student.model": 0.3}})


def made_search(store: Path, record: SearchRecord | None, *objectives: str) -> Path:
    """The folder of a search."""
    folder = store / "searches" / "made-0"
    folder.mkdir(parents=True)
    names = objectives or ("accuracy",)
    best = {"trial": 1, "values": {name: 83.0 for name in names}, "parameters": {"student_optim.lr": 2e-4}}
    report = {
        "study": "made-0",
        "recipe": "kd_digits",
        "objectives": {name: "maximize" for name in names},
        "trials": {"target": 6, "complete": 5, "pruned": 1, "failed": 0, "running": 0},
        "at_work": [],
        "best": [{**best, "run": "made-0-s1", "test/accuracy/top1": 91.0}],
        "reasons": [{"trial": 7, "reason": HOSTILE}],
        "images_made": {"before the trials": 100},
        "updated": 1e9,
    }
    write_json(folder / "search.json", report)
    if record is not None:
        write_json(folder / "trials.json", record.to_dict())
    return folder


def made_table(tmp_path: Path, top1: float = 94.0) -> Path:
    """The folder of a table, with the page of one of its runs."""
    table = saved(tmp_path)
    entries = table_entries(table, quick=False)
    ids = [run.run_id for run in entries[0].runs]
    results = {ids[0]: result(0, 90.0), ids[1]: result(1, top1)}
    report = table_report(
        table.model_copy(update={"title": HOSTILE}),
        entries,
        quick=False,
        results=results,
        reasons={entries[1].runs[0].run_id: "not finite"},
        hardware=dict.fromkeys(ids, "a box"),
        price_per_hour=None,
    )
    folder = tmp_path / "runs" / "tables" / "made"
    folder.mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps(report.to_dict(), indent=1))
    if math.isfinite(top1):
        assert TableResult.from_dict(json.loads((folder / "table.json").read_text())) == report
    page = tmp_path / "runs" / ids[1] / "report.html"
    page.parent.mkdir()
    page.write_text("a page")
    return folder
