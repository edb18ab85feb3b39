"""The figures of finished runs: one as it is, several as mean and deviation over seeds."""

from collections.abc import Mapping, Sequence

from raykd.cli.output import COLUMNS, format_count, format_figure, format_figures, print_pairs, print_table
from raykd.results import Figures, Measured, RunResult, SeedsResult

_LABELS = {"last": "last", "blind": "blind", "best": "best (oracle)"}


def print_summary(result: SeedsResult) -> None:
    """Print the table of one run, or of the mean over several seeds, and what it took."""
    results, first, several = result.runs, result.runs[0], len(result.runs) > 1
    means, deviations = (result.mean, result.sd) if several else (first, None)
    published, controls = first.published, first.controls or {}
    rows = []
    for name, figures in means.students.items():
        chosen = name == first.selected
        label = f"{_LABELS[name]}{' *' if chosen else ''}"
        row = _row(label, figures, _student(deviations, name), published.get("student") if chosen else None)
        rows.append(_judged(row, results))
    if means.teacher is not None:
        rows.append(_row("teacher", means.teacher, None, published.get("teacher")))
    for name, control in controls.items():
        if control.selected is not None:  # else a bank, not a student
            figures = _student((means.controls or {})[name], control.selected) or Figures()
            deviation = None if deviations is None else _student((deviations.controls or {})[name], control.selected)
            row = _row(f"control {name}", figures, deviation, published.get(name))
            rows.append(_judged(row, [result.controls[name] for result in results if result.controls]))
    for name in published.keys() - {"student", "teacher", *controls}:
        rows.append(_row(name, Figures(), None, published[name]))
    title = first.run if not several else f"{first.run.rpartition('-s')[0]}, {len(results)} seeds: mean ± sd"
    print_table(title, ["", *COLUMNS.values(), "published"], rows)
    print_pairs(_account(results, means))


def _student(measured: Measured | None, selection: str) -> Figures | None:
    return None if measured is None else measured.students.get(selection)


def _row(label: str, figures: Figures, sd: Figures | None, published: float | None) -> list[str]:
    return [label, *format_figures(figures, sd), format_figure(published)]


def _judged(row: list[str], results: Sequence[RunResult]) -> list[str]:
    """Strike out the figure on synthetic images where they show too few classes in one of the runs."""
    column = 1 + list(COLUMNS).index("synthetic_agreement")
    if row[column] and any(result.not_judged for result in results):
        row[column] = "-"
    return row


def _phases(seconds: Mapping[str, float]) -> str:
    """Return the shares of the phases that took at least a hundredth of the time, the largest first."""
    whole = sum(seconds.values())
    largest = sorted(((spent, phase) for phase, spent in seconds.items() if spent >= 0.01 * whole), reverse=True)
    return ", ".join(f"{phase} {100 * spent / whole:.0f} %" for spent, phase in largest)


def _account(results: Sequence[RunResult], means: Measured) -> dict[str, object]:
    first = results[0]
    pairs: dict[str, object] = {}
    if first.selected is not None:
        of_step = f", of step {first.student.step}" if len(results) == 1 else ""
        pairs["selected *"] = f"{first.selected}{of_step}"
    for name, value in means.image_quality.items():
        pairs[f"synthetic {name.replace('_', ' ')}"] = f"{value:.2f}"
    for role, sets in first.data_opened.items():
        if sets or role == "train":
            pairs[f"data, {role}"] = ", ".join(sets) or "none"
    pairs["images"] = format_count(sum(result.images or 0 for result in results))
    pairs["seconds"] = f"{sum(result.seconds or 0 for result in results):.1f}"
    if spent := _phases(means.phases or {}):
        pairs["of the time"] = spent
    if forwards := sum(result.teacher_forwards or 0 for result in results):
        pairs["compute"] = f"{format_count(forwards)} forward passes of the teacher"
    if gpu_hours := sum(result.gpu_hours or 0 for result in results):
        pairs["GPU hours"] = f"{gpu_hours:.3f}"
    for reason in dict.fromkeys(result.not_judged for result in results if result.not_judged):
        pairs["synthetic agreement"] = reason
    for text in dict.fromkeys(text for result in results for text in result.warnings or ()):
        pairs["warning"] = f"{pairs['warning']}; {text}" if "warning" in pairs else text
    for result in results:
        top1 = "" if result.selected is None else f", top-1 {format_figure(result.student.top1)} %"
        name = "directory" if len(results) == 1 else f"seed {result.seed}{top1}"
        pairs[name] = result.directory
    return pairs
