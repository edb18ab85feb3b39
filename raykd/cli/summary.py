"""The figures of finished runs: one as it is, several as mean and deviation over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from raykd.cli.output import COLUMNS, count, figure, print_pairs, print_table
from raykd.reporting.seeds import over_seeds

_SELECTIONS = {"last": "last", "blind": "blind", "best": "best (oracle)"}


def print_summary(results: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of one run, or of the mean over several seeds, and what it took."""
    first, several = results[0], len(results) > 1
    combined = over_seeds(results)
    means, deviations = (combined["mean"], combined["sd"]) if several else (first, {})
    published: Mapping[str, float] = first.get("published") or {}
    rows = []
    for name, label in _SELECTIONS.items():
        if name in means:
            chosen = name == first["selected"]
            shown = published.get("student") if chosen else None
            rows.append(_row(f"{label}{' *' if chosen else ''}", means[name], deviations.get(name), shown))
    if any(name.startswith("teacher/") for name in means):
        rows.append(_row("teacher", _teacher(means), None, published.get("teacher")))
    controls: Mapping[str, Any] = first.get("controls") or {}
    for name, control in controls.items():
        if "selected" not in control:  # a bank, not a student
            continue
        selected = control["selected"]
        figures = means["controls"][name][selected]
        deviation = deviations["controls"][name][selected] if several else None
        rows.append(_row(f"control {name}", figures, deviation, published.get(name)))
    for name in published.keys() - {"student", "teacher", *controls}:
        rows.append(_row(name, {}, None, published[name]))
    title = first["run"] if not several else f"{_name(first)}, {len(results)} seeds: mean ± sd"
    print_table(title, ["", *COLUMNS.values(), "published"], rows)
    print_pairs(_account(results))


def _row(label: str, figures: Mapping[str, Any], sd: Mapping[str, Any] | None, published: float | None) -> list[str]:
    cells = [figure(figures.get(key), (sd or {}).get(key)) for key in COLUMNS]
    return [label, *cells, figure(published)]


def _account(results: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    first = results[0]
    pairs: dict[str, object] = {"selected *": first["selected"]} if "selected" in first else {}
    for key, value in (over_seeds(results)["mean"] if len(results) > 1 else first).items():
        if key.startswith("images/"):
            pairs[f"synthetic {key.removeprefix('images/').replace('_', ' ')}"] = f"{value:.2f}"
    for role, sets in first["data_opened"].items():
        if sets or role == "train":
            pairs[f"data, {role}"] = ", ".join(sets) or "none"
    pairs["images"] = count(sum(r["images"] for r in results))
    pairs["seconds"] = f"{sum(r['seconds'] for r in results):.1f}"
    if any(r["gpu_hours"] for r in results):
        pairs["GPU hours"] = f"{sum(r['gpu_hours'] for r in results):.3f}"
    for result in results:
        top1 = f", top-1 {figure(result[result['selected']].get('accuracy/top1'))} %" if "selected" in result else ""
        name = "directory" if len(results) == 1 else f"seed {result['seed']}{top1}"
        pairs[name] = result["directory"]
    return pairs


def _teacher(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: figures.get(f"teacher/{key}") for key in COLUMNS}


def _name(result: Mapping[str, Any]) -> str:
    return str(result["run"]).rpartition("-s")[0]
