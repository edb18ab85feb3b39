"""The page of a run: how good its student is, beside what it is compared with, how it got there and what it took."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from raykd.distributed.phases import PHASES
from raykd.recipe.recipe import dump_recipe
from raykd.reporting.follow import format_duration
from raykd.reporting.pages.charts import Chart, reliability_chart
from raykd.reporting.pages.curves import curve_groups
from raykd.reporting.pages.facts import (
    RunFacts,
    finite,
    packaged_recipe,
    recipe_differences,
    train_command,
    train_notes,
)
from raykd.reporting.pages.page import format_time, render
from raykd.reporting.pages.parts import Bar, Cell, Fact, Head, Mark, Part, Row, Table, link_to, make_scale, numbers
from raykd.reporting.pages.pictures import kernel_sheets, mean_images, sample_sheets
from raykd.results import Breakdown, Figures

_COLUMNS = ("", "top-1 %", "top-5 %", "agreement %", "KL nats", "ECE %", "synthetic agreement %", "step", "published")
_SELECTIONS = {"last": "last step", "blind": "blind", "best": "best on the test split (oracle)"}
_ROLES = {
    "train": "to train on",
    "synthetic": "synthetic sets",
    "ood": "of another domain",
    "calibration": "for statistics by class",
    "test": "to test on",
    "teacher": "by the teacher's own run",
}
_QUALITY = {
    "classes": ("effective number of classes", "by the teacher's answers"),
    "hit": ("of the class asked for", "%, by the teacher's answers"),
    "pixel_diversity": ("diversity of pixels", "% of their root mean square, within classes"),
    "feature_diversity": ("diversity of features", "% of their root mean square, within classes"),
}
_MATRIX_CLASSES, _LISTED = 20, 20
_SUM_LENGTH = 64


def run_page(facts: RunFacts, start: Path, shown: str) -> str:
    """Return the page of a run, which is to lie in the folder ``start``; ``shown`` is how its directory is called."""
    recipe, result = facts.recipe, facts.result
    base = packaged_recipe(recipe.name)
    changed = {} if base is None else recipe_differences(base, recipe)
    teacher = _teacher(facts)
    lines = {} if teacher is None or teacher.top1 is None else {"teacher": teacher.top1}
    bars, are_lowest = _class_bars(facts)
    return render(
        "run",
        title=recipe.name,
        facts=facts,
        headline=_headline(facts),
        updated=format_time(facts.status["updated"]) if "updated" in facts.status else None,
        scale=make_scale(_marks(facts, start)),
        seeds=_seeds(facts),
        figures=_figures(facts),
        warnings=[*([f"blind selection: {reason}"] if (reason := facts.not_judged) else []), *_warnings(facts)],
        costs=_costs(facts),
        phases=_phases(facts),
        quality=_quality(facts),
        groups=curve_groups({"": [facts.rows]}, {"accuracy/top1": lines}),
        sheets=sample_sheets(facts),
        means=mean_images(facts),
        kernels=kernel_sheets(facts),
        layers=_layer_bars(facts),
        classes=bars,
        are_lowest=are_lowest,
        matrix=_matrix(facts),
        confusions=_confusions(facts),
        reliability=_reliability(facts),
        data=_data(facts),
        command=train_command(facts, shown),
        notes=train_notes(facts),
        recipe=dump_recipe(recipe),
        base=base,
        changed=Table(
            [Head("field", False), Head("packaged", False), Head("this run", False)],
            [Row([Cell(key), *map(Cell, values)]) for key, values in changed.items()],
            "compact",
        ),
        machine=_machine(facts.environment),
        opening="" if result is None else _opening(facts.opened),
    )


def _teacher(facts: RunFacts) -> Figures | None:
    return facts.result.teacher if facts.result is not None else None


def _marks(facts: RunFacts, start: Path) -> list[Mark]:
    """Return what stands on the scale of accuracies: the student, and what it is to be compared with."""
    student, result = facts.student, facts.result
    if student.top1 is None:
        return []
    marks = []
    teacher = _teacher(facts)
    published = facts.recipe.published
    if teacher is not None and teacher.top1 is not None:
        source = facts.experiment.teacher
        page = None if source is None else link_to(facts.beside(source.run_id).page, start)
        marks.append(Mark("teacher", teacher.top1, link=page))
    if "student" in published:
        marks.append(Mark("published", published["student"], is_hollow=True))
    name = f"student ({result.selected})" if result is not None else "student (last report)"
    marks.append(Mark(name, student.top1, "--series-1", is_own=True))
    known = _known_seeds(facts)
    if len(known) > 1:
        marks.append(_mark_of_seeds(f"{len(known)} seeds", known, "--series-1", None))
    for control in facts.controls:
        if control.student.top1 is not None:
            link, name = link_to(control.run.page, start), f"control: {control.recipe.name}"
            others = _known_seeds(control)
            if len(known) > 1 and len(others) > 1:
                marks.append(_mark_of_seeds(f"{name}, {len(others)} seeds", others, "--series-2", link))
            else:
                marks.append(Mark(name, control.student.top1, "--series-2", link=link))
    return marks


def _mark_of_seeds(name: str, known: Sequence[float], colour: str, link: str | None) -> Mark:
    return Mark(name, fmean(known), colour, min(known), max(known), value=_spread(known), link=link)


def _known_seeds(facts: RunFacts) -> list[float]:
    """Return the top-1 of the finished seeds that have one."""
    return [top1 for one in facts.seeds if (top1 := one.student.top1) is not None]


def _spread(known: Sequence[float]) -> str:
    return f"{fmean(known):.2f} ± {stdev(known):.2f}"


def _headline(facts: RunFacts) -> tuple[str, str] | None:
    """Return what the run is judged by first, in words and in per cent: over its seeds where there are several."""
    found, known = facts.headline, _known_seeds(facts)
    if found is None:
        return None
    if facts.result is None or facts.student.top1 is None or len(known) < 2:
        return found[0], f"{found[1]:.2f}"
    return f"{found[0]}, mean ± sd of {len(known)} seeds", _spread(known)


def _seeds(facts: RunFacts) -> str:
    """Say which seeds there are beside this one, with their figures."""
    known = [one for one in facts.seeds if one.student.top1 is not None]
    if len(known) < 2:
        return ""
    return ", ".join(f"seed {one.recipe.seed}: {one.student.top1:.2f}" for one in known)


def _figures(facts: RunFacts) -> Table | None:
    """Return the figures of all networks as a table."""
    published, result = facts.recipe.published, facts.result
    rows = []
    if result is not None:
        for name, figures in result.students.items():
            is_own = name == result.selected
            label = _SELECTIONS[name] + (", the one that counts" if is_own else "")
            rows.append(
                _line(label, _judged(facts, figures), published.get("student") if is_own else None, is_own=is_own)
            )
    elif facts.rows:
        rows.append(_line("last report", _judged(facts, facts.student), published.get("student"), is_own=True))
    if (teacher := _teacher(facts)) is not None:
        rows.append(_line("teacher", teacher, published.get("teacher")))
    for control in facts.controls:
        name, figures = control.recipe.name, _judged(control, control.student)
        rows.append(_line(f"control: {name}", figures, published.get(name)))
    heads = [Head(name, index > 0) for index, name in enumerate(_COLUMNS)]
    return Table(heads, rows).filled() if rows else None


def _judged(facts: RunFacts, figures: Figures) -> Figures:
    """Return the figures of a run without those on synthetic images where they say nothing."""
    return replace(figures, synthetic_agreement=None) if facts.not_judged else figures


def _line(name: str, figures: Figures, published: float | None, *, is_own: bool = False) -> Row:
    own = numbers([figures.top1, figures.top5, figures.agreement])
    kl = numbers([figures.kl], 3)
    more = numbers([figures.ece, figures.synthetic_agreement])
    return Row([Cell(name), *own, *kl, *more, *numbers([figures.step], 0), *numbers([published])], is_own)


def _warnings(facts: RunFacts) -> list[str]:
    found = facts.result.warnings if facts.result is not None else facts.status.get("warnings")
    reason = facts.status.get("reason")
    ended = [f"{facts.state}: {reason}"] if reason and facts.result is None else []
    return [*ended, *facts.lost, *map(str, found or [])]


def _costs(facts: RunFacts) -> list[Fact]:
    """Return what the run took."""
    result, schedule, last = facts.result, facts.recipe.schedule, facts.rows[-1] if facts.rows else {}
    found = []
    if result is not None and result.seconds is not None:
        found.append(Fact("training", format_duration(result.seconds), _pace(last.get("steps_per_second", 0.0))))
    if "waiting/others" in last:
        found.append(Fact("of it waiting for workers", f"{last['waiting/others']:.0f} %", "at the last report"))
    steps = f"{facts.steps:,}" if facts.result is not None else f"{facts.step:,} of {facts.steps:,}"
    # A method with a pool, or that is called for images beside its steps, makes others than a batch a step.
    is_batch_a_step = result is None or result.images in (None, facts.steps * schedule.global_batch)
    found.append(Fact("steps", steps, f"batches of {schedule.global_batch:,}" if is_batch_a_step else ""))
    if result is not None and result.images is not None:
        speed = f"{last['images_per_second']:,.0f} / s" if "images_per_second" in last else ""
        found.append(Fact("images", f"{result.images:,.0f}", speed))
    if result is not None and result.teacher_forwards is not None:
        found.append(Fact("compute", _millions(result.teacher_forwards), "forward passes of the teacher"))
    if result is not None and result.gpu_hours:
        found.append(Fact("GPU hours", f"{result.gpu_hours:.3f}"))
    return found


def _pace(steps_per_second: float) -> str:
    if steps_per_second <= 0:
        return ""
    return f"{steps_per_second:.3g} steps / s" if steps_per_second >= 1 else f"{1 / steps_per_second:.3g} s a step"


def _phases(facts: RunFacts) -> list[Bar]:
    """Return where the time went, a bar for each phase that took some."""
    spent, whole = facts.phases, sum(facts.phases.values())
    longest = max(spent.values(), default=0.0)
    return [
        Bar(PHASES[phase], f"{format_duration(spent[phase])} ({100 * spent[phase] / whole:.0f} %)", [Part(share)])
        for phase in PHASES
        if phase in spent and (share := round(100 * spent[phase] / longest, 2))
    ]


def _quality(facts: RunFacts) -> list[Fact]:
    """Return how good the images are that it makes in the end."""
    found = facts.result.image_quality if facts.result is not None else {}
    named = [(*_QUALITY.get(name, (name.replace("_", " "), "")), value) for name, value in found.items()]
    return [Fact(name, f"{value:.2f}", more) for name, more, value in named]


def _millions(value: float) -> str:
    return f"{value / 1e6:,.2f} M" if value >= 1e6 else f"{value:,.0f}"


def _layer_bars(facts: RunFacts) -> list[Bar]:
    """Return how far the variances that the teacher's BatchNorm layers see are from their own."""
    gaps = facts.image_statistics.gaps if facts.image_statistics is not None else {}
    known = {name: gap for name, gap in gaps.items() if finite(gap) is not None}
    most = max(known.values(), default=0.0) or 1.0
    return [Bar(name, f"{gap:.2f}", [Part(round(100 * gap / most, 2))]) for name, gap in known.items()]


def _class_bars(facts: RunFacts) -> tuple[list[Bar], bool]:
    """Return the accuracy of each class, and whether these are only the lowest, of many classes."""
    student, teacher = facts.breakdowns.get("student"), facts.breakdowns.get("teacher")
    if student is None:
        return [], False
    names = facts.names_of_classes(len(student.images))
    known = [(accuracy, index) for index, accuracy in enumerate(student.accuracies) if accuracy is not None]
    many = len(known) > _MATRIX_CLASSES
    bars = []
    for accuracy, index in sorted(known)[:_LISTED] if many else known:
        parts, value = [Part(round(accuracy, 2))], f"{accuracy:.1f}"
        other = teacher.accuracies[index] if teacher is not None and index < len(teacher.accuracies) else None
        if other is not None:
            parts.append(Part(round(other, 2), "--series-8"))
            value += f" ({other:.1f})"
        bars.append(Bar(names[index], value, parts))
    return bars, many


@dataclass(frozen=True)
class MatrixCell:
    """So many images of a class with an answer; ``share`` of the class's images, in per cent, is its shade."""

    images: int
    share: int
    is_right: bool
    title: str


def _matrix(facts: RunFacts) -> tuple[list[str], list[tuple[str, list[MatrixCell]]]] | None:
    """Return the names of the classes, and for each what its images were answered by; None with too many classes."""
    student = facts.breakdowns.get("student")
    if student is None or len(student.images) > _MATRIX_CLASSES:
        return None
    names = facts.names_of_classes(len(student.images))
    counts = {(one.label, one.answer): one.images for one in student.confusions}
    counts |= {(index, index): correct for index, correct in enumerate(student.correct)}
    rows = []
    for label, images in enumerate(student.images):
        cells = []
        for answer in range(len(names)):
            count = counts.get((label, answer), 0)
            share = 100 * count / max(1, images)
            shade = round(math.sqrt(share / 100) * 85) if count else 0  # a few confusions can be seen, too
            title = f"{names[label]} taken for {names[answer]}: {count} of {images}"
            cells.append(MatrixCell(count, shade, label == answer, title))
        rows.append((names[label], cells))
    return names, rows


def _confusions(facts: RunFacts) -> Table | None:
    """Return the most frequent confusions where a matrix would be too large."""
    student = facts.breakdowns.get("student")
    if student is None or len(student.images) <= _MATRIX_CLASSES or not student.confusions:
        return None
    names = facts.names_of_classes(len(student.images))
    rows = [
        Row(
            [
                Cell(names[one.label]),
                Cell(names[one.answer]),
                Cell(f"{one.images:,}", one.images),
                *numbers([100 * one.images / max(1, student.images[one.label])], 1),
            ]
        )
        for one in student.confusions[:_LISTED]
    ]
    return Table([Head("class", False), Head("taken for", False), Head("images"), Head("% of the class")], rows)


def _reliability(facts: RunFacts) -> Chart | None:
    found: dict[str, Breakdown] = {name: one for name, one in facts.breakdowns.items() if one.bins}
    return reliability_chart("Calibration", found) if "student" in found else None


def _opening(opened: Mapping[str, Sequence[str]]) -> str:
    """Say whether training images were opened, no more than was noted; nothing where the run trained on them."""
    if "train" not in opened:
        return "What it has opened was not noted."
    if opened["train"]:
        return ""
    calibration = opened.get("calibration")
    if calibration:
        return f"Not trained on images of the data; opened for statistics by class: {', '.join(calibration)}."
    return "No training image was opened."


def _data(facts: RunFacts) -> Table:
    opened = {"train": None, **facts.opened}
    rows = [
        Row(
            [Cell(_ROLES.get(role, role)), Cell("not noted" if sets is None else ", ".join(sets) or "none")],
            is_own=role == "train",
        )
        for role, sets in opened.items()
        if sets or role == "train"
    ]
    return Table([Head("opened", False), Head("sets", False)], rows, "compact")


def _machine(environment: Mapping[str, Any]) -> list[Fact]:
    """Return where the run ran, and with what."""
    threads, cores = environment.get("threads_per_worker"), environment.get("cores")
    device = environment.get("gpu") or environment.get("cpu")
    found = [("device", device), ("workers", environment.get("workers")), ("precision", environment.get("precision"))]
    if threads is not None:
        found.append(("threads of a worker", f"{threads} of {cores} cores"))
    found += [("system", environment.get("system")), ("Python", environment.get("python"))]
    packages = environment.get("packages")
    found += list(packages.items()) if isinstance(packages, Mapping) else []
    found += [("commit", environment.get("git")), ("sum of the teacher's weights", environment.get("teacher_sha256"))]
    known = [(str(name), str(value)) for name, value in found if value is not None]
    return [Fact(name, f"{value[:12]}…" if len(value) == _SUM_LENGTH else value) for name, value in known]
